// Norms, quantisation, packing, and the sums that leave what the experts gave in the residual.
#include "common/base/rounding.h"
#include "common/kernels/cuda/launches.h"
#include "common/kernels/cuda/rows.cuh"

namespace moepool {
namespace {

constexpr int kRowThreads = 256;
constexpr int kNormTile = 4096;  // columns in shared memory at once
constexpr int kSumLanes = 16;    // of the sums along a row

SIMT_DEVICE void SetFault(DeviceFaults faults, int row) {
  if (faults != nullptr) faults[row] = 1;
}

// Of a row of x - `offset`: the sum, or the sum of squares, over 16 lanes and the tree; to every thread.
// Shared memory: tile [kNormTile], lanes [kSumLanes].
template <bool kSquares>
SIMT_DEVICE float RowSum(const float* x, int cols, float offset, float* tile, float* lanes) {
  const int thread = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int begin = 0; begin < cols; begin += kNormTile) {
    const int n = cols - begin < kNormTile ? cols - begin : kNormTile;
    for (int i = thread; i < n; i += kRowThreads) {
      tile[i] = kSquares ? x[begin + i] - offset : x[begin + i];
    }
    simt::SyncThreads();
    if (thread < kSumLanes) {
      for (int i = thread; i < n; i += kSumLanes) {
        sum = kSquares ? simt::Fma(tile[i], tile[i], sum) : sum + tile[i];
      }
    }
    simt::SyncThreads();
  }
  if (thread < kSumLanes) lanes[thread] = sum;
  simt::SyncThreads();
  const float total = TreeSum16(lanes);
  simt::SyncThreads();
  return total;
}

// A block of threads a row.
SIMT_KERNEL NormRows(NormArgs args) {
  const int row = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % simt::kWarp;
  const int cols = args.cols;
  const float* const x = args.x + static_cast<int64_t>(row) * cols;
  const float n = static_cast<float>(cols);
  SIMT_SHARED(float, tile, kNormTile);
  SIMT_SHARED(float, lanes, kSumLanes);
  const bool layer = args.kind == NormKind::kLayer;
  const float mean = layer ? simt::Divide(RowSum<false>(x, cols, 0, tile, lanes), n) : 0.0f;
  const float sum = RowSum<true>(x, cols, mean, tile, lanes);
  const float inv = simt::Divide(1.0f, simt::SquareRoot(simt::Divide(sum, n) + args.eps));
  bool finite = IsFinite(sum);
  const int blocks = (cols + kQuantColumns - 1) / kQuantColumns;
  for (int block = thread / simt::kWarp; block < blocks; block += kRowThreads / simt::kWarp) {
    const int col = block * kQuantColumns + lane;
    float y = 0;
    if (col < cols) {
      const float centred = layer ? x[col] - mean : x[col];
      y = (centred * inv) * args.weight[col];
      if (args.bias != nullptr) y = y + args.bias[col];
      if (args.y.f32 != nullptr) args.y.f32[static_cast<int64_t>(row) * cols + col] = y;
      finite = finite && IsFinite(y);
    }
    if (args.y.q != nullptr) {
      const int64_t at = static_cast<int64_t>(row) * blocks + block;
      finite = QuantizeLanes(y, lane, args.y.q + at * kQuantColumns, args.y.scale + at) && finite;
    }
  }
  if (!finite) SetFault(args.faults, row);
}

// A warp a block of 32 columns.
SIMT_KERNEL QuantizeBlocks(QuantizeArgs args) {
  const int blocks = args.cols / kQuantColumns;
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kRowThreads / simt::kWarp) +
                     static_cast<int>(threadIdx.x) / simt::kWarp;
  if (at >= static_cast<int64_t>(args.rows) * blocks) return;
  const bool finite = QuantizeLanes(args.y.f32[at * kQuantColumns + lane], lane,
                                    args.y.q + at * kQuantColumns, args.y.scale + at);
  if (!finite && lane == 0) SetFault(args.faults, static_cast<int>(at / blocks));
}

// A thread a column: rows ascend, so that none is overwritten before it is read.
SIMT_KERNEL GatherRows(GatherArgs args) {
  const int col = static_cast<int>(blockIdx.x) * kRowThreads + static_cast<int>(threadIdx.x);
  if (col >= args.cols) return;
  for (int64_t i = 0; i < args.count; ++i) {
    args.x[i * args.cols + col] = args.x[static_cast<int64_t>(args.rows[i]) * args.cols + col];
  }
}

// A block of threads a row. Codes go by eight.
SIMT_KERNEL PackRows(PackArgs args) {
  constexpr int kCodes = sizeof(simt::Vector8);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t at = blockIdx.x;
  const int64_t row = args.rows[at];
  if (args.x.q == nullptr) {
    float* const to = reinterpret_cast<float*>(args.to) + at * args.cols;
    const float* const x = args.x.f32 + row * args.cols;
    for (int col = thread; col < args.cols; col += kRowThreads) to[col] = x[col];
    return;
  }
  std::byte* const codes = args.to + at * args.cols;
  const int8_t* const q = args.x.q + row * args.cols;
  for (int col = thread * kCodes; col < args.cols; col += kRowThreads * kCodes) {
    simt::Write8(simt::Load8(q + col), codes + col);
  }
  const int blocks = args.cols / kQuantColumns;
  std::byte* const behind = args.to + static_cast<int64_t>(args.count) * args.cols;
  float* const scales = reinterpret_cast<float*>(behind) + at * blocks;
  const float* const scale = args.x.scale + row * blocks;
  for (int block = thread; block < blocks; block += kRowThreads) scales[block] = scale[block];
}

// A thread a column of a row.
SIMT_KERNEL CombineParts(CombineArgs args) {
  const int col = static_cast<int>(blockIdx.x) * kRowThreads + static_cast<int>(threadIdx.x);
  if (col >= args.cols) return;
  const CombineRow row = args.rows[blockIdx.y];
  float* const* const parts = args.parts + row.parts_begin;
  for (int i = row.adds_begin; i < row.adds_end; ++i) {
    const PlannedAdd add = args.adds[i];
    parts[add.dst][col] += parts[add.src][col];
  }
  const int64_t at = static_cast<int64_t>(row.row) * args.cols + col;
  float sum = parts[0][col];
  if (args.shared != nullptr) sum += args.shared[at];
  args.residual[at] += sum;
}

// A thread a column of a part.
SIMT_KERNEL AddLeaves(LeavesArgs args) {
  const int col = static_cast<int>(blockIdx.x) * kRowThreads + static_cast<int>(threadIdx.x);
  const int part = static_cast<int>(blockIdx.y);
  if (col >= args.cols) return;
  const int32_t* const pairs = args.slot_pair + args.part_begin[part];
  if (pairs[0] < 0) return;
  const AddRange range = args.part_adds[part];
  for (int i = range.begin; i < range.end; ++i) {
    const PlannedAdd add = args.adds[i];
    args.leaves[static_cast<int64_t>(pairs[add.dst]) * args.cols + col] +=
        args.leaves[static_cast<int64_t>(pairs[add.src]) * args.cols + col];
  }
  const float sum = args.leaves[static_cast<int64_t>(pairs[0]) * args.cols + col];
  KeepSum(args, static_cast<int64_t>(part) * args.cols + col, sum);
  bool finite = IsFinite(sum);
  if (col == 0) {
    const int slots = args.part_begin[part + 1] - args.part_begin[part];
    for (int i = 0; i < slots; ++i) finite = finite && args.pair_fault[pairs[i]] == 0;
  }
  if (!finite) SetFault(args.faults, part);
}

uint32_t BlocksOf(int64_t n, int64_t each) { return static_cast<uint32_t>(DivideUp(n, each)); }

}  // namespace

namespace SIMT_TARGET {

void LaunchNorm(const NormArgs& args, void* stream) {
  if (args.rows == 0) return;
  simt::Start(NormRows, {.grid_x = static_cast<uint32_t>(args.rows), .threads = kRowThreads}, stream, args);
}

void LaunchQuantize(const QuantizeArgs& args, void* stream) {
  const int64_t blocks = static_cast<int64_t>(args.rows) * (args.cols / kQuantColumns);
  if (blocks == 0) return;
  const uint32_t grid = BlocksOf(blocks, kRowThreads / simt::kWarp);
  simt::Start(QuantizeBlocks, {.grid_x = grid, .threads = kRowThreads}, stream, args);
}

void LaunchGather(const GatherArgs& args, void* stream) {
  if (args.count == 0) return;
  simt::Start(GatherRows, {.grid_x = BlocksOf(args.cols, kRowThreads), .threads = kRowThreads}, stream, args);
}

void LaunchPack(const PackArgs& args, void* stream) {
  if (args.count == 0) return;
  simt::Start(PackRows, {.grid_x = static_cast<uint32_t>(args.count), .threads = kRowThreads}, stream, args);
}

void LaunchCombine(const CombineArgs& args, void* stream) {
  if (args.count == 0) return;
  simt::Start(CombineParts,
              {.grid_x = BlocksOf(args.cols, kRowThreads),
               .grid_y = static_cast<uint32_t>(args.count),
               .threads = kRowThreads},
              stream, args);
}

void LaunchAddLeaves(const LeavesArgs& args, void* stream) {
  if (args.parts == 0) return;
  simt::Start(AddLeaves,
              {.grid_x = BlocksOf(args.cols, kRowThreads),
               .grid_y = static_cast<uint32_t>(args.parts),
               .threads = kRowThreads},
              stream, args);
}

}  // namespace SIMT_TARGET
}  // namespace moepool
