// The gate's choice, a warp a row. Sums run as common/model/gate_policy.cc has them, in ascending order of
// expert, in every lane alike; the largest may be found in any order.
#include "common/base/rounding.h"
#include "common/kernels/cuda/launches.h"
#include "common/kernels/cuda/numerics.cuh"

namespace moepool {
namespace {

constexpr int kSharedThreads = 128;

static_assert(kMostGateExperts <= simt::kWarp * simt::kWarp);  // a lane's are bits of a word

// A lane has the experts whose number mod 32 is its own. Bit w of `taken`: its expert 32 w + lane.

// The number of the largest logit that is not taken, the lowest of equal ones; in every lane.
SIMT_DEVICE int Largest(const float* logits, int experts, uint32_t taken) {
  const int lane = static_cast<int>(threadIdx.x);
  int best = -1;
  float most = 0;
  for (int e = lane; e < experts; e += simt::kWarp) {
    if ((taken >> (e / simt::kWarp) & 1) != 0) continue;
    if (best >= 0 && !(logits[e] > most)) continue;
    best = e;
    most = logits[e];
  }
  for (int m = simt::kWarp / 2; m > 0; m /= 2) {
    const int other = simt::ShuffleXor(simt::kAllLanes, best, m);
    const float logit = simt::ShuffleXor(simt::kAllLanes, most, m);
    if (other < 0 || (best >= 0 && (logit < most || (logit == most && other > best)))) continue;
    best = other;
    most = logit;
  }
  return best;
}

SIMT_DEVICE uint32_t Taken(int expert) {
  return expert % simt::kWarp == static_cast<int>(threadIdx.x) ? 1u << (expert / simt::kWarp) : 0u;
}

SIMT_DEVICE float Sum(const float* values, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += values[i];
  return sum;
}

SIMT_DEVICE float DeviceSigmoid(float x) { return simt::Divide(1.0f, 1.0f + DeviceExp(-x)); }

// The k largest logits, by softmax over all of them, or by their sigmoids.  exps [experts], of shared memory.
SIMT_DEVICE void TopK(const GateArgs& args, const float* logits, float* exps, SelectedExpert* selected) {
  const int lane = static_cast<int>(threadIdx.x);
  const int k = args.experts_per_token;
  const bool sigmoid = args.gate.kind == GateKind::kSigmoid;
  const int first = Largest(logits, args.experts, 0);
  const float max = logits[first];
  for (int e = lane; !sigmoid && e < args.experts; e += simt::kWarp) exps[e] = DeviceExp(logits[e] - max);
  uint32_t taken = Taken(first);
  for (int i = 1; i < k; ++i) taken |= Taken(Largest(logits, args.experts, taken));
  simt::SyncWarp(simt::kAllLanes);
  const float sum = sigmoid ? 0.0f : Sum(exps, args.experts);
  int before = 0;
  for (int begin = 0; begin < args.experts; begin += simt::kWarp) {
    const bool own = (taken >> (begin / simt::kWarp) & 1) != 0;
    const uint32_t chosen = simt::Ballot(simt::kAllLanes, own);
    if (own) {
      const int e = begin + lane;
      const float weight = sigmoid ? DeviceSigmoid(logits[e]) : simt::Divide(exps[e], sum);
      selected[before + simt::Popcount(chosen & ((1u << lane) - 1))] = {e, weight};
    }
    before += simt::Popcount(chosen);
  }
  simt::SyncWarp(simt::kAllLanes);
  float all = 0;
  for (int i = 0; i < k; ++i) all += selected[i].weight;
  if (sigmoid) all = all + kSigmoidLeastSum;
  simt::SyncWarp(simt::kAllLanes);
  for (int i = lane; i < k; i += simt::kWarp) {
    float weight = selected[i].weight;
    if (args.gate.renormalize) weight = simt::Divide(weight, all);
    selected[i].weight = weight * args.gate.scale;
  }
}

// The largest logit beside `taken`, a number or -1, and its weight among those near it.
SIMT_DEVICE SelectedExpert Pick(const GateArgs& args, const float* logits, int taken, float* exps) {
  const int largest = Largest(logits, args.experts, taken < 0 ? 0 : Taken(taken));
  const float m = logits[largest];
  const float most_apart = 2 * args.gate.jitter_eps;
  for (int e = static_cast<int>(threadIdx.x); e < args.experts; e += simt::kWarp) {
    const float s = logits[e];
    const float magnitude = s < 0 ? -s : s;
    const float larger = magnitude < m ? m : magnitude;
    const bool near = e != taken && !(simt::Divide(m - s, larger) > most_apart);
    exps[e] = near ? DeviceExp(s - m) : 0.0f;
  }
  simt::SyncWarp(simt::kAllLanes);
  const float sum = Sum(exps, args.experts);
  simt::SyncWarp(simt::kAllLanes);
  return {largest, simt::Divide(1.0f, sum)};
}

SIMT_DEVICE void SparseMixer(const GateArgs& args, const float* logits, float* exps,
                             SelectedExpert* selected) {
  const SelectedExpert first = Pick(args, logits, -1, exps);
  const SelectedExpert second = Pick(args, logits, first.expert, exps);
  if (threadIdx.x != 0) return;
  const bool ascends = first.expert < second.expert;
  selected[0] = ascends ? first : second;
  selected[1] = ascends ? second : first;
}

SIMT_KERNEL SelectExperts(SIMT_ARGS GateArgs args) {
  SIMT_SHARED(float, exps, kMostGateExperts);
  const int row = static_cast<int>(blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x);
  const int k = args.experts_per_token;
  const bool dense = args.gate.kind == GateKind::kDense;
  const float* const logits = args.logits + static_cast<int64_t>(dense ? 0 : row) * args.experts;
  SelectedExpert* const selected = args.selected + static_cast<int64_t>(row) * k;
  bool fault = args.faults != nullptr && args.faults[row] != 0;
  for (int e = lane; !dense && e < args.experts; e += simt::kWarp) fault = fault || !IsFinite(logits[e]);
  if (simt::Any(simt::kAllLanes, fault)) {
    for (int i = lane; i < k; i += simt::kWarp) selected[i] = {-1, 0.0f};
    if (lane == 0 && args.faults != nullptr) args.faults[row] = 1;
    return;
  }
  if (dense) {
    for (int i = lane; i < k; i += simt::kWarp) selected[i] = {i, 1.0f};
  } else if (args.gate.kind == GateKind::kSparseMixer) {
    SparseMixer(args, logits, exps, selected);
  } else {
    TopK(args, logits, exps, selected);
  }
}

// A thread a row.
SIMT_KERNEL SelectShared(SharedGateArgs args) {
  const int row = static_cast<int>(blockIdx.x) * kSharedThreads + static_cast<int>(threadIdx.x);
  if (row >= args.rows) return;
  const float logit = args.logits != nullptr ? args.logits[row] : 0.0f;
  if (!IsFinite(logit) && args.faults != nullptr) args.faults[row] = 1;
  const float weight = args.logits != nullptr ? DeviceSigmoid(logit) : 1.0f;
  const bool fault = args.faults != nullptr && args.faults[row] != 0;
  args.selected[row] = {fault ? -1 : 0, weight};
}

}  // namespace

namespace SIMT_TARGET {

void LaunchSelect(const GateArgs& args, void* stream) {
  if (args.rows == 0) return;
  simt::Start(SelectExperts, {.grid_x = static_cast<uint32_t>(args.rows), .threads = simt::kWarp}, stream,
              args);
}

void LaunchSelectShared(const SharedGateArgs& args, void* stream) {
  if (args.rows == 0) return;
  const auto grid = static_cast<uint32_t>(DivideUp(args.rows, kSharedThreads));
  simt::Start(SelectShared, {.grid_x = grid, .threads = kSharedThreads}, stream, args);
}

}  // namespace SIMT_TARGET
}  // namespace moepool
