// The work of a layer's experts from what the gate chose: pairs by expert, tiles of them, and how the leaves
// of each row are added. One block of threads, so that the host need not know how many there are of anything.
#include "common/kernels/cuda/launches.h"

namespace moepool {
namespace {

constexpr int kPlanThreads = 256;
constexpr int kManyThreads = 1024;
constexpr int kManySlots = 2048;  // from here on more threads pay
constexpr int kMostLevels = 32;   // of the tree over experts

SIMT_DEVICE int InclusiveSum(int value, int lane) {
  for (int m = 1; m < simt::kWarp; m *= 2) {
    const int below = simt::ShuffleUp(simt::kAllLanes, value, m);
    if (lane >= m) value += below;
  }
  return value;
}

// As PlanLeaves of common/model/canonical_sum.h, without its recursion. Where two neighbours differ in a
// higher bit than all between, the sums on both sides are finished first: what waits is a stack of ever lower
// bits.
SIMT_DEVICE void PlanAdds(const SelectedExpert* chosen, int k, PlannedAdd* adds) {
  int waiting[kMostLevels];  // leaf from which on the right side goes
  uint32_t differing[kMostLevels];
  int depth = 0;
  for (int i = 1; i <= k; ++i) {
    const uint32_t bits = i < k ? static_cast<uint32_t>(chosen[i - 1].expert ^ chosen[i].expert) : ~0u;
    for (; depth > 0 && differing[depth - 1] < bits; --depth) {
      *adds++ = {depth > 1 ? waiting[depth - 2] : 0, waiting[depth - 1]};
    }
    waiting[depth] = i;
    differing[depth++] = bits;
  }
}

SIMT_KERNEL PlanExperts(SIMT_ARGS PlanArgs args) {
  SIMT_SHARED(int32_t, count, kMostGateExperts);  // pairs
  SIMT_SHARED(int32_t, first_pair, kMostGateExperts);
  SIMT_SHARED(int32_t, first_tile, kMostGateExperts);
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int lane = thread % simt::kWarp;
  const int k = args.experts_per_token;
  const int slots = args.rows * k;
  for (int e = thread; e < args.expert_count; e += threads) count[e] = 0;
  simt::SyncThreads();
  for (int slot = thread; slot < slots; slot += threads) {
    const int e = args.selected[slot].expert;
    if (e >= 0) simt::AtomicAdd(&count[e], 1);
  }
  simt::SyncThreads();
  if (thread < simt::kWarp) {
    int pairs = 0;
    int tiles = 0;
    for (int begin = 0; begin < args.expert_count; begin += simt::kWarp) {
      const int e = begin + lane;
      const int n = e < args.expert_count ? count[e] : 0;
      const bool there = n > 0 && args.experts[e].down.rows > 0;
      const int cut = there ? (n + args.tile_pairs - 1) / args.tile_pairs : 0;
      const int pairs_upto = InclusiveSum(n, lane);
      const int tiles_upto = InclusiveSum(cut, lane);
      if (e < args.expert_count) {
        first_pair[e] = pairs + pairs_upto - n;
        first_tile[e] = tiles + tiles_upto - cut;
      }
      pairs += simt::Shuffle(simt::kAllLanes, pairs_upto, simt::kWarp - 1);
      tiles += simt::Shuffle(simt::kAllLanes, tiles_upto, simt::kWarp - 1);
    }
    if (lane == 0) *args.tile_count = tiles;
  }
  simt::SyncThreads();
  // A warp an expert: its pairs ascend by row.
  for (int e = thread / simt::kWarp; e < args.expert_count; e += threads / simt::kWarp) {
    if (count[e] == 0) continue;
    const bool empty = args.experts[e].down.rows == 0;
    const int begin = first_pair[e];
    const int end = begin + count[e];
    for (int t = lane; !empty && begin + t * args.tile_pairs < end; t += simt::kWarp) {
      const int tile = begin + t * args.tile_pairs;
      args.tiles[first_tile[e] + t] = {e, tile, tile + args.tile_pairs < end ? tile + args.tile_pairs : end};
    }
    int next = begin;
    for (int slot = lane; slot - lane < slots; slot += simt::kWarp) {
      const bool own = slot < slots && args.selected[slot].expert == e;
      const uint32_t all = simt::Ballot(simt::kAllLanes, own);
      if (own) {
        const int pair = next + simt::Popcount(all & ((1u << lane) - 1));
        args.pair_row[pair] = slot / k;
        args.pair_weight[pair] = args.selected[slot].weight;
        args.pair_expert[pair] = empty ? -1 : e;
        args.slot_pair[slot] = pair;
      }
      next += simt::Popcount(all);
    }
  }
  for (int row = thread; row < args.rows; row += threads) {
    const SelectedExpert* const chosen = args.selected + row * k;
    const int adds = row * (k - 1);
    args.part_begin[row] = row * k;
    args.part_adds[row] = {adds, adds + k - 1};
    if (chosen[0].expert < 0) {
      args.slot_pair[row * k] = -1;
    } else {
      PlanAdds(chosen, k, args.adds + adds);
    }
  }
  if (thread == 0) args.part_begin[args.rows] = slots;
}

}  // namespace

namespace SIMT_TARGET {

void LaunchPlan(const PlanArgs& args, void* stream) {
  if (args.rows == 0) return;
  const int threads = args.rows * args.experts_per_token >= kManySlots ? kManyThreads : kPlanThreads;
  simt::Start(PlanExperts, {.threads = static_cast<uint32_t>(threads)}, stream, args);
}

}  // namespace SIMT_TARGET
}  // namespace moepool
