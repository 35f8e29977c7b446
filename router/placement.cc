// See placement.h. Two passes of dynamic programming over (workers used, experts placed): the first finds how
// uneven the evenest plan is, the second takes the cheapest plan within that bound and a quarter.
//
// Why a quarter, and balance before parts: a decode step waits for the worker that reads the most weights,
// and one more part costs a row of hidden floats where one more expert costs megabytes. 16 experts on three
// workers as 8+4+4 are three parts, but the step reads 8 experts one after another where 6+6+4 (five parts)
// reads 6.
#include "router/placement.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

constexpr double kTolerance = 1.25;  // of a worker's share
constexpr double kNoPlan = std::numeric_limits<double>::infinity();

// Compared in this order; each adds up over workers.
struct Cost {
  int64_t idle = std::numeric_limits<int64_t>::max();
  int64_t blocks = 0;
  int64_t imbalance_ppm = 0;  // an integer, so that equal plans tie exactly

  bool exists() const { return idle != std::numeric_limits<int64_t>::max(); }
  bool operator<(const Cost& o) const {
    return std::tie(idle, blocks, imbalance_ppm) < std::tie(o.idle, o.blocks, o.imbalance_ppm);
  }
};

// Aligned power-of-two blocks that [begin, end) falls into: the parts of a row that selects all of it.
int AlignedBlocks(uint32_t begin, uint32_t end) {
  int blocks = 0;
  while (begin < end) {
    const uint32_t fits = std::bit_floor(end - begin);
    begin += begin == 0 ? fits : std::min(fits, begin & (~begin + 1));
    ++blocks;
  }
  return blocks;
}

class Planner {
 public:
  // bytes [experts], over all layers. `needed`, their sum, is positive or all are zero.
  Planner(std::span<const PlacementWorker> workers, std::span<const uint64_t> bytes, uint64_t needed)
      : workers_(workers), experts_(static_cast<int>(bytes.size())), prefix_(bytes.size() + 1, 0) {
    for (int e = 0; e < experts_; ++e) prefix_[e + 1] = prefix_[e] + bytes[e];
    total_ = std::max<double>(1, static_cast<double>(needed));
    double unlimited = total_;
    for (const PlacementWorker& w : workers) {
      unlimited = std::max(unlimited, static_cast<double>(w.memory_limit_bytes));
    }
    double sum = 0;
    for (const PlacementWorker& w : workers) {
      share_.push_back(w.memory_limit_bytes == 0 ? unlimited : static_cast<double>(w.memory_limit_bytes));
      sum += share_.back();
    }
    for (double& share : share_) share *= total_ / sum;
  }

  // Edges [workers + 1] of the ranges; empty where no plan keeps the limits.
  std::vector<int> Edges() const {
    const double evenest = LeastOverload();
    if (evenest == kNoPlan) return {};
    return CheapestEdges(std::max(kTolerance, evenest));
  }

 private:
  uint64_t Bytes(int begin, int end) const { return prefix_[end] - prefix_[begin]; }
  double Overload(int w, int begin, int end) const {
    return static_cast<double>(Bytes(begin, end)) / share_[w];
  }
  bool Fits(int w, int begin, int end) const {
    const uint64_t limit = workers_[w].memory_limit_bytes;
    return limit == 0 || Bytes(begin, end) <= limit;
  }

  Cost CostOf(int w, int begin, int end) const {
    const double load = static_cast<double>(Bytes(begin, end));
    const double off = load - share_[w];
    const double ppm = 1e6 * (off / share_[w]) * (off / total_);
    return {load == 0, AlignedBlocks(begin, end), static_cast<int64_t>(std::min(ppm, 1e12))};
  }

  // The least, over plans that keep the limits, of the largest load in units of its worker's share.
  double LeastOverload() const {
    std::vector<double> best(experts_ + 1, kNoPlan);
    best[0] = 0;
    for (size_t w = 0; w < workers_.size(); ++w) {
      std::vector<double> next(experts_ + 1, kNoPlan);
      for (int end = 0; end <= experts_; ++end) {
        for (int begin = end; begin >= 0 && Fits(w, begin, end); --begin) {
          next[end] = std::min(next[end], std::max(best[begin], Overload(w, begin, end)));
        }
      }
      best = std::move(next);
    }
    return best[experts_];
  }

  std::vector<int> CheapestEdges(double max_overload) const {
    const int workers = static_cast<int>(workers_.size());
    std::vector<Cost> best(experts_ + 1);
    best[0].idle = 0;
    std::vector<std::vector<int>> from(workers, std::vector<int>(experts_ + 1, 0));
    for (int w = 0; w < workers; ++w) {
      std::vector<Cost> next(experts_ + 1);
      for (int end = 0; end <= experts_; ++end) {
        for (int begin = end; begin >= 0 && Fits(w, begin, end) && Overload(w, begin, end) <= max_overload;
             --begin) {
          if (!best[begin].exists()) continue;
          Cost cost = CostOf(w, begin, end);
          cost.idle += best[begin].idle;
          cost.blocks += best[begin].blocks;
          cost.imbalance_ppm += best[begin].imbalance_ppm;
          if (cost < next[end]) {
            next[end] = cost;
            from[w][end] = begin;
          }
        }
      }
      best = std::move(next);
    }
    MOEPOOL_CHECK(best[experts_].exists());
    std::vector<int> edges(workers + 1, experts_);
    for (int w = workers - 1; w >= 0; --w) edges[w] = from[w][edges[w + 1]];
    return edges;
  }

  std::span<const PlacementWorker> workers_;
  int experts_;
  std::vector<uint64_t> prefix_;  // [experts + 1]
  std::vector<double> share_;     // [workers] bytes, summing to total_
  double total_ = 0;
};

// Why no plan keeps the limits.
absl::Status DoesNotFit(std::span<const PlacementWorker> workers, std::span<const uint64_t> bytes,
                        uint64_t needed) {
  uint64_t had = 0;
  uint64_t largest = 0;
  for (const PlacementWorker& w : workers) {
    const uint64_t limit = w.memory_limit_bytes;
    had = had + limit < had ? std::numeric_limits<uint64_t>::max() : had + limit;
    largest = std::max(largest, limit);
  }
  const std::string have = absl::StrCat(workers.size(), " workers have ", had, " bytes");
  const auto heaviest = std::max_element(bytes.begin(), bytes.end());
  if (*heaviest > largest) {
    return absl::FailedPreconditionError(
        absl::StrCat("expert ", heaviest - bytes.begin(), " needs ", *heaviest,
                     " bytes over all layers and the largest worker has ", largest, "; all experts need ",
                     needed, " bytes, ", have));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("experts need ", needed, " bytes, ", have,
                   had < needed ? "" : ", in shares that no contiguous ranges of whole experts fit"));
}

}  // namespace

absl::StatusOr<PlacementPlan> PlanPlacement(const PlacementInput& input) {
  if (input.layers < 1 || input.experts < 1 ||
      input.expert_bytes.size() != static_cast<size_t>(input.layers) * static_cast<size_t>(input.experts)) {
    return absl::InvalidArgumentError(absl::StrCat("placement of ", input.layers, " layers of ",
                                                   input.experts, " experts was given the bytes of ",
                                                   input.expert_bytes.size()));
  }
  constexpr uint64_t kMaxBytes = uint64_t{1} << 63;
  std::vector<uint64_t> bytes(input.experts, 0);
  uint64_t needed = 0;
  for (size_t i = 0; i < input.expert_bytes.size(); ++i) {
    const uint64_t b = input.expert_bytes[i];
    if (b > kMaxBytes - needed) {
      return absl::InvalidArgumentError(
          absl::StrCat("experts of ", needed, " and ", b, " bytes together exceed 2^63"));
    }
    needed += b;
    bytes[i % input.experts] += b;
  }
  if (input.workers.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("experts need ", needed, " bytes, 0 workers have 0 bytes"));
  }
  const std::vector<int> edges = Planner(input.workers, bytes, needed).Edges();
  if (edges.empty()) return DoesNotFit(input.workers, bytes, needed);

  PlacementPlan plan;
  plan.owner.resize(input.expert_bytes.size());
  plan.worker_bytes.assign(input.workers.size(), 0);
  for (size_t w = 0; w < input.workers.size(); ++w) {
    for (int e = edges[w]; e < edges[w + 1]; ++e) {
      plan.worker_bytes[w] += bytes[e];
      for (int layer = 0; layer < input.layers; ++layer) {
        plan.owner[static_cast<size_t>(layer) * input.experts + e] = static_cast<int32_t>(w);
      }
    }
  }
  return plan;
}

}  // namespace moepool
