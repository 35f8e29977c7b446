// The experts' feed-forward: gate, up and activation in one kernel, h quantised as it leaves; then down,
// times the pair's weight, into a leaf a pair. All tiles of all experts in one launch each.
#include "common/base/rounding.h"
#include "common/kernels/cuda/launches.h"
#include "common/kernels/cuda/products.cuh"
#include "common/kernels/cuda/rows.cuh"

namespace moepool {
namespace {

constexpr int kHiddenWarps = kQuantColumns / kGroup;  // a block of threads makes one quantised block of h
constexpr int kLeafWarps = 4;
constexpr int kManyTiles = 4;
constexpr int kApartWarps = 8;

SIMT_DEVICE float SiluMul(float gate, float up) { return simt::Divide(gate, 1.0f + DeviceExp(-gate)) * up; }

SIMT_DEVICE bool IsQuantized(const DeviceWeights& w) {
  return w.dtype != DType::kF32 && w.dtype != DType::kF16 && w.dtype != DType::kBF16;
}

SIMT_DEVICE int GroupsOf(const DeviceWeights& w) { return (w.rows + kGroup - 1) / kGroup; }

SIMT_DEVICE bool TileThere(const ExpertsArgs& args) {
  return args.tiles_there == nullptr || static_cast<int>(blockIdx.y) < *args.tiles_there;
}

// Tokens [first, first + most) of a tile, which has as many as it has pairs.
SIMT_DEVICE Tokens TileTokens(const ExpertTile& tile, int first, int most) {
  Tokens tokens;
  const int left = tile.end - tile.begin - first;
  tokens.count = left < most ? left : most;
  return tokens;
}

// Keeps 32 columns of h [tokens, 32] of pairs from `pair` on: thread = column within a warp, a warp a token.
SIMT_DEVICE void KeepHidden(const ExpertsArgs& args, const DeviceExpert& expert, const float* h, int stride,
                            int pair, int count, int block) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  const int warps = static_cast<int>(blockDim.x) / simt::kWarp;
  for (int token = static_cast<int>(threadIdx.x) / simt::kWarp; token < count; token += warps) {
    const float y = h[token * stride + lane];
    const int64_t row = pair + token;
    if (!IsQuantized(expert.down)) {
      args.h.f32[row * args.padded + block * kQuantColumns + lane] = y;
      continue;
    }
    const int64_t at = row * (args.padded / kQuantColumns) + block;
    const bool finite = QuantizeLanes(y, lane, args.h.q + at * kQuantColumns, args.h.scale + at);
    if (!finite && lane == 0) args.pair_fault[row] = 1;
  }
}

// A block of threads: 32 columns of h of kTiles * 8 pairs; a warp has 16 of the columns.
template <int kType, int kTiles>
SIMT_KERNEL QuantizedHidden(SIMT_ARGS ExpertsArgs args) {
  constexpr int kTokens = kTiles * kTileTokens;
  SIMT_SHARED(float, h, kTokens* kQuantColumns);
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarp;
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  if (!TileThere(args)) return;
  const ExpertTile tile = args.tiles[blockIdx.y];
  const DeviceExpert& expert = args.experts[tile.expert];
  const int block = static_cast<int>(blockIdx.x);
  const int group = block * kHiddenWarps + warp;
  if (block * kHiddenWarps >= GroupsOf(expert.gate)) return;
  for (int first = 0; first < tile.end - tile.begin; first += kTokens) {
    Tokens tokens = TileTokens(tile, first, kTokens);
    tokens.x = args.x;
    tokens.cols = args.hidden;
    tokens.index = args.pair_row + tile.begin + first;
    float gate[kTiles][4];
    float up[kTiles][4];
    const bool there = group < GroupsOf(expert.gate);
    if (there) {
      MultiplyGroupOf<kType, kTiles>(expert.gate, group, tokens, gate);
      MultiplyGroupOf<kType, kTiles>(expert.up, group, tokens, up);
    }
    SIMT_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int token = kTileTokens * n + 2 * (lane % 4) + i % 2;
        const int column = warp * kGroup + lane / 4 + 8 * (i / 2);
        h[token * kQuantColumns + column] = there ? SiluMul(gate[n][i], up[n][i]) : 0.0f;
      }
    }
    simt::SyncThreads();
    KeepHidden(args, expert, h, kQuantColumns, tile.begin + first, tokens.count, block);
    simt::SyncThreads();
  }
}

SIMT_KERNEL PlainHidden(SIMT_ARGS ExpertsArgs args) {
  SIMT_SHARED(float, shared, kPlainTileFloats);
  SIMT_SHARED(float, h, kPlainTokens* kQuantColumns);
  if (!TileThere(args)) return;
  const ExpertTile tile = args.tiles[blockIdx.y];
  const DeviceExpert& expert = args.experts[tile.expert];
  const int block = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const PlainTiles tiles = {shared, shared + kPlainColumns * kGroup};
  if (block * kHiddenWarps >= GroupsOf(expert.gate)) return;
  for (int first = 0; first < tile.end - tile.begin; first += kPlainTokens) {
    Tokens tokens = TileTokens(tile, first, kPlainTokens);
    tokens.x = args.x;
    tokens.cols = args.hidden;
    tokens.index = args.pair_row + tile.begin + first;
    for (int half = 0; half < kHiddenWarps; ++half) {
      const int group = block * kHiddenWarps + half;
      float y = 0;
      if (group < GroupsOf(expert.gate)) {
        const float gate = MultiplyPlainGroup(expert.gate, group, tokens, tiles);
        y = SiluMul(gate, MultiplyPlainGroup(expert.up, group, tokens, tiles));
      }
      h[thread / kGroup * kQuantColumns + half * kGroup + thread % kGroup] = y;
    }
    simt::SyncThreads();
    KeepHidden(args, expert, h, kQuantColumns, tile.begin + first, tokens.count, block);
    simt::SyncThreads();
  }
}

// A product of pairs with one of their expert's matrices: down's are the leaves, weighted; gate's and up's
// are sums of their own.
enum class ExpertMatrix { kDown, kGate, kUp };
struct ProductOfExperts {
  ExpertsArgs experts;
  ExpertMatrix matrix;
};

template <bool kDown>
SIMT_DEVICE const DeviceWeights& MatrixOf(const ProductOfExperts& product, const DeviceExpert& expert) {
  if constexpr (kDown) return expert.down;
  return product.matrix == ExpertMatrix::kUp ? expert.up : expert.gate;
}

template <bool kDown>
SIMT_DEVICE Tokens ProductTokens(const ExpertsArgs& args, const ExpertTile& tile, int first, int most) {
  Tokens tokens = TileTokens(tile, first, most);
  tokens.x = kDown ? args.h : args.x;
  tokens.cols = kDown ? args.padded : args.hidden;
  if constexpr (!kDown) tokens.index = args.pair_row + tile.begin + first;
  tokens.first = tile.begin + first;
  return tokens;
}

template <bool kDown>
SIMT_DEVICE void KeepProduct(const ProductOfExperts& product, int pair, int row, float sum) {
  const ExpertsArgs& args = product.experts;
  if constexpr (kDown) {
    if (row < args.hidden)
      args.leaves[static_cast<int64_t>(pair) * args.hidden + row] = sum * args.pair_weight[pair];
  } else if (row < args.padded) {
    float* const sums = product.matrix == ExpertMatrix::kUp ? args.up_sums : args.gate_sums;
    sums[static_cast<int64_t>(pair) * args.padded + row] = sum;
  }
}

// A warp: 16 rows of the product of a tile.
template <int kType, int kTiles, bool kDown>
SIMT_KERNEL QuantizedProduct(SIMT_ARGS ProductOfExperts product) {
  const ExpertsArgs& args = product.experts;
  constexpr int kTokens = kTiles * kTileTokens;
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarp;
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  if (!TileThere(args)) return;
  const ExpertTile tile = args.tiles[blockIdx.y];
  const DeviceWeights& w = MatrixOf<kDown>(product, args.experts[tile.expert]);
  const int group = static_cast<int>(blockIdx.x) * kLeafWarps + warp;
  if (group >= GroupsOf(w)) return;
  for (int first = 0; first < tile.end - tile.begin; first += kTokens) {
    const Tokens tokens = ProductTokens<kDown>(args, tile, first, kTokens);
    float acc[kTiles][4];
    MultiplyGroupOf<kType, kTiles>(w, group, tokens, acc);
    SIMT_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int token = kTileTokens * n + 2 * (lane % 4) + i % 2;
        if (token >= tokens.count) continue;
        KeepProduct<kDown>(product, tokens.first + token, kGroup * group + lane / 4 + 8 * (i / 2), acc[n][i]);
      }
    }
  }
}

// A block of threads: 16 rows of a part. Its warps take the leaves in turn, which then are added along the
// tree.
template <int kType>
SIMT_KERNEL QuantizedParts(SIMT_ARGS PartsArgs args) {
  SIMT_SHARED(float, leaves, kMaxFusedSlots* kGroup);
  const ExpertsArgs& experts = args.experts;
  const LeavesArgs& parts = args.parts;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / simt::kWarp;
  const int lane = thread % simt::kWarp;
  const int group = static_cast<int>(blockIdx.x);
  const int part = static_cast<int>(blockIdx.y);
  const int slots = parts.part_begin[part + 1] - parts.part_begin[part];
  const int32_t* const pairs = parts.slot_pair + parts.part_begin[part];
  if (pairs[0] < 0) return;
  for (int slot = warp; slot < slots; slot += kLeafWarps) {
    const int pair = pairs[slot];
    const int expert = args.pair_expert[pair];
    float acc[1][4] = {{0, 0, 0, 0}};
    if (expert >= 0) {  // otherwise its slice is empty
      Tokens tokens;
      tokens.x = experts.h;
      tokens.cols = experts.padded;
      tokens.first = pair;
      tokens.count = 1;
      MultiplyGroupOf<kType, 1>(experts.experts[expert].down, group, tokens, acc);
    }
    if (lane % 4 == 0) {  // of token 0
      SIMT_UNROLL
      for (int r = 0; r < 2; ++r) {
        leaves[slot * kGroup + lane / 4 + 8 * r] = acc[0][2 * r] * experts.pair_weight[pair];
      }
    }
  }
  simt::SyncThreads();
  const int row = kGroup * group + thread;
  if (thread >= kGroup || row >= parts.cols) return;
  const AddRange range = parts.part_adds[part];
  for (int i = range.begin; i < range.end; ++i) {
    const PlannedAdd add = parts.adds[i];
    leaves[add.dst * kGroup + thread] += leaves[add.src * kGroup + thread];
  }
  const float sum = leaves[thread];
  KeepSum(parts, static_cast<int64_t>(part) * parts.cols + row, sum);
  bool finite = IsFinite(sum);
  for (int i = 0; i < slots; ++i) finite = finite && parts.pair_fault[pairs[i]] == 0;
  if (!finite && parts.faults != nullptr) parts.faults[part] = 1;
}

template <bool kDown>
SIMT_KERNEL PlainProduct(SIMT_ARGS ProductOfExperts product) {
  const ExpertsArgs& args = product.experts;
  SIMT_SHARED(float, shared, kPlainTileFloats);
  if (!TileThere(args)) return;
  const ExpertTile tile = args.tiles[blockIdx.y];
  const DeviceWeights& w = MatrixOf<kDown>(product, args.experts[tile.expert]);
  const int group = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  if (group >= GroupsOf(w)) return;
  for (int first = 0; first < tile.end - tile.begin; first += kPlainTokens) {
    const Tokens tokens = ProductTokens<kDown>(args, tile, first, kPlainTokens);
    const float sum = MultiplyPlainGroup(w, group, tokens, {shared, shared + kPlainColumns * kGroup});
    const int token = thread / kGroup;
    if (token >= tokens.count) continue;
    KeepProduct<kDown>(product, tokens.first + token, kGroup * group + thread % kGroup, sum);
  }
}

// h from the sums of gate and up, and the form in which down reads it: a warp a pair, a lane a column.
SIMT_KERNEL ActivateHidden(ExpertsArgs args) {
  if (!TileThere(args)) return;
  const ExpertTile tile = args.tiles[blockIdx.y];
  const DeviceExpert& expert = args.experts[tile.expert];
  const int column =
      static_cast<int>(blockIdx.x) * kQuantColumns + static_cast<int>(threadIdx.x) % simt::kWarp;
  for (int pair = tile.begin + static_cast<int>(threadIdx.x) / simt::kWarp; pair < tile.end;
       pair += kApartWarps) {
    const int64_t at = static_cast<int64_t>(pair) * args.padded + column;
    args.h.f32[at] = column < expert.gate.rows ? SiluMul(args.gate_sums[at], args.up_sums[at]) : 0.0f;
  }
}
SIMT_KERNEL QuantizeHidden(ExpertsArgs args) {
  if (!TileThere(args)) return;
  const ExpertTile tile = args.tiles[blockIdx.y];
  if (!IsQuantized(args.experts[tile.expert].down)) return;
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  for (int pair = tile.begin + static_cast<int>(threadIdx.x) / simt::kWarp; pair < tile.end;
       pair += kApartWarps) {
    const int64_t at =
        static_cast<int64_t>(pair) * (args.padded / kQuantColumns) + static_cast<int>(blockIdx.x);
    const bool finite = QuantizeLanes(args.h.f32[at * kQuantColumns + lane], lane,
                                      args.h.q + at * kQuantColumns, args.h.scale + at);
    if (!finite && lane == 0) args.pair_fault[pair] = 1;
  }
}

// A kernel by the type of the weights.
#define MOEPOOL_CHOOSE(function, kernel, Args, ...)         \
  void (*function(int type))(Args) {                        \
    switch (type) {                                         \
      MOEPOOL_FORMATS(MOEPOOL_##function##_CASE)            \
      default:                                              \
        return kernel<kAnyType __VA_OPT__(, ) __VA_ARGS__>; \
    }                                                       \
  }
#define MOEPOOL_FewHidden_CASE(format)     \
  case static_cast<int>(DType::k##format): \
    return QuantizedHidden<static_cast<int>(DType::k##format), 1>;
#define MOEPOOL_ManyHidden_CASE(format)    \
  case static_cast<int>(DType::k##format): \
    return QuantizedHidden<static_cast<int>(DType::k##format), kManyTiles>;
#define MOEPOOL_FewLeaves_CASE(format)     \
  case static_cast<int>(DType::k##format): \
    return QuantizedProduct<static_cast<int>(DType::k##format), 1, true>;
#define MOEPOOL_ManyLeaves_CASE(format)    \
  case static_cast<int>(DType::k##format): \
    return QuantizedProduct<static_cast<int>(DType::k##format), kManyTiles, true>;
#define MOEPOOL_FewSums_CASE(format)       \
  case static_cast<int>(DType::k##format): \
    return QuantizedProduct<static_cast<int>(DType::k##format), 1, false>;
#define MOEPOOL_ManySums_CASE(format)      \
  case static_cast<int>(DType::k##format): \
    return QuantizedProduct<static_cast<int>(DType::k##format), kManyTiles, false>;
#define MOEPOOL_Parts_CASE(format)         \
  case static_cast<int>(DType::k##format): \
    return QuantizedParts<static_cast<int>(DType::k##format)>;
MOEPOOL_CHOOSE(FewHidden, QuantizedHidden, ExpertsArgs, 1)
MOEPOOL_CHOOSE(ManyHidden, QuantizedHidden, ExpertsArgs, kManyTiles)
MOEPOOL_CHOOSE(FewLeaves, QuantizedProduct, ProductOfExperts, 1, true)
MOEPOOL_CHOOSE(ManyLeaves, QuantizedProduct, ProductOfExperts, kManyTiles, true)
MOEPOOL_CHOOSE(FewSums, QuantizedProduct, ProductOfExperts, 1, false)
MOEPOOL_CHOOSE(ManySums, QuantizedProduct, ProductOfExperts, kManyTiles, false)
MOEPOOL_CHOOSE(Parts, QuantizedParts, PartsArgs)

uint32_t Ratio(int64_t n, int64_t each) { return static_cast<uint32_t>(DivideUp(n, each)); }

template <bool kDown>
void LaunchProduct(const ProductOfExperts& product, void* stream) {
  const ExpertsArgs& args = product.experts;
  const int rows = kDown ? args.hidden : args.max_ffn;
  simt::LaunchShape shape;
  shape.grid_y = static_cast<uint32_t>(args.tile_count);
  if (kDown ? args.plain_down : args.plain_up) {
    shape.grid_x = Ratio(rows, kGroup);
    shape.threads = kPlainThreads;
    simt::Start(PlainProduct<kDown>, shape, stream, product);
    return;
  }
  const int type = kDown ? args.down_type : args.up_type;
  const bool few = args.tile_pairs <= kTileTokens;
  shape.grid_x = Ratio(Ratio(rows, kGroup), kLeafWarps);
  shape.threads = kLeafWarps * simt::kWarp;
  if constexpr (kDown) {
    simt::Start(few ? FewLeaves(type) : ManyLeaves(type), shape, stream, product);
  } else {
    simt::Start(few ? FewSums(type) : ManySums(type), shape, stream, product);
  }
}

}  // namespace

namespace SIMT_TARGET {

void LaunchExpertHidden(const ExpertsArgs& args, void* stream) {
  if (args.tile_count == 0) return;
  simt::LaunchShape shape;
  shape.grid_x = Ratio(args.max_ffn, kQuantColumns);
  shape.grid_y = static_cast<uint32_t>(args.tile_count);
  if (args.plain_up) {
    shape.threads = kPlainThreads;
    simt::Start(PlainHidden, shape, stream, args);
    return;
  }
  shape.threads = kHiddenWarps * simt::kWarp;
  simt::Start(args.tile_pairs <= kTileTokens ? FewHidden(args.up_type) : ManyHidden(args.up_type), shape,
              stream, args);
}

void LaunchExpertHiddenApart(const ExpertsArgs& args, void* stream) {
  if (args.tile_count == 0) return;
  LaunchProduct<false>({args, ExpertMatrix::kGate}, stream);
  LaunchProduct<false>({args, ExpertMatrix::kUp}, stream);
  simt::LaunchShape shape;
  shape.grid_x = Ratio(args.padded, kQuantColumns);
  shape.grid_y = static_cast<uint32_t>(args.tile_count);
  shape.threads = kApartWarps * simt::kWarp;
  simt::Start(ActivateHidden, shape, stream, args);
  simt::Start(QuantizeHidden, shape, stream, args);
}

void LaunchExpertLeaves(const ExpertsArgs& args, void* stream) {
  if (args.tile_count > 0) LaunchProduct<true>({args, ExpertMatrix::kDown}, stream);
}

void LaunchExpertParts(const PartsArgs& args, void* stream) {
  if (args.parts.parts == 0) return;
  simt::LaunchShape shape;
  shape.grid_x = Ratio(args.experts.hidden, kGroup);
  shape.grid_y = static_cast<uint32_t>(args.parts.parts);
  shape.threads = kLeafWarps * simt::kWarp;
  simt::Start(Parts(args.experts.down_type), shape, stream, args);
}

}  // namespace SIMT_TARGET
}  // namespace moepool
