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

SIMT_DEVICE void KeepLeaf(const ExpertsArgs& args, int pair, int row, float sum) {
  if (row < args.hidden)
    args.leaves[static_cast<int64_t>(pair) * args.hidden + row] = sum * args.pair_weight[pair];
}

// A warp: 16 rows of the leaves of a tile.
template <int kType, int kTiles>
SIMT_KERNEL QuantizedLeaves(SIMT_ARGS ExpertsArgs args) {
  constexpr int kTokens = kTiles * kTileTokens;
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarp;
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  if (!TileThere(args)) return;
  const ExpertTile tile = args.tiles[blockIdx.y];
  const DeviceWeights& down = args.experts[tile.expert].down;
  const int group = static_cast<int>(blockIdx.x) * kLeafWarps + warp;
  if (group >= GroupsOf(down)) return;
  for (int first = 0; first < tile.end - tile.begin; first += kTokens) {
    Tokens tokens = TileTokens(tile, first, kTokens);
    tokens.x = args.h;
    tokens.cols = args.padded;
    tokens.first = tile.begin + first;
    float acc[kTiles][4];
    MultiplyGroupOf<kType, kTiles>(down, group, tokens, acc);
    SIMT_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int token = kTileTokens * n + 2 * (lane % 4) + i % 2;
        if (token >= tokens.count) continue;
        KeepLeaf(args, tokens.first + token, kGroup * group + lane / 4 + 8 * (i / 2), acc[n][i]);
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

SIMT_KERNEL PlainLeaves(SIMT_ARGS ExpertsArgs args) {
  SIMT_SHARED(float, shared, kPlainTileFloats);
  if (!TileThere(args)) return;
  const ExpertTile tile = args.tiles[blockIdx.y];
  const DeviceWeights& down = args.experts[tile.expert].down;
  const int group = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  for (int first = 0; first < tile.end - tile.begin; first += kPlainTokens) {
    Tokens tokens = TileTokens(tile, first, kPlainTokens);
    tokens.x = args.h;
    tokens.cols = args.padded;
    tokens.first = tile.begin + first;
    const float sum = MultiplyPlainGroup(down, group, tokens, {shared, shared + kPlainColumns * kGroup});
    const int token = thread / kGroup;
    if (token < tokens.count) KeepLeaf(args, tokens.first + token, kGroup * group + thread % kGroup, sum);
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
    return QuantizedLeaves<static_cast<int>(DType::k##format), 1>;
#define MOEPOOL_ManyLeaves_CASE(format)    \
  case static_cast<int>(DType::k##format): \
    return QuantizedLeaves<static_cast<int>(DType::k##format), kManyTiles>;
#define MOEPOOL_Parts_CASE(format)         \
  case static_cast<int>(DType::k##format): \
    return QuantizedParts<static_cast<int>(DType::k##format)>;
MOEPOOL_CHOOSE(FewHidden, QuantizedHidden, ExpertsArgs, 1)
MOEPOOL_CHOOSE(ManyHidden, QuantizedHidden, ExpertsArgs, kManyTiles)
MOEPOOL_CHOOSE(FewLeaves, QuantizedLeaves, ExpertsArgs, 1)
MOEPOOL_CHOOSE(ManyLeaves, QuantizedLeaves, ExpertsArgs, kManyTiles)
MOEPOOL_CHOOSE(Parts, QuantizedParts, PartsArgs)

uint32_t Ratio(int64_t n, int64_t each) { return static_cast<uint32_t>(DivideUp(n, each)); }

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

void LaunchExpertLeaves(const ExpertsArgs& args, void* stream) {
  if (args.tile_count == 0) return;
  simt::LaunchShape shape;
  shape.grid_y = static_cast<uint32_t>(args.tile_count);
  if (args.plain_down) {
    shape.grid_x = Ratio(args.hidden, kGroup);
    shape.threads = kPlainThreads;
    simt::Start(PlainLeaves, shape, stream, args);
    return;
  }
  shape.grid_x = Ratio(Ratio(args.hidden, kGroup), kLeafWarps);
  shape.threads = kLeafWarps * simt::kWarp;
  simt::Start(args.tile_pairs <= kTileTokens ? FewLeaves(args.down_type) : ManyLeaves(args.down_type), shape,
              stream, args);
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
