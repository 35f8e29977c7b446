#include "router/placement.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<PlacementWorker> Workers(const std::vector<uint64_t>& limits) {
  std::vector<PlacementWorker> workers;
  for (uint64_t limit : limits) workers.push_back({WorkerId(workers.size() + 1), limit});
  return workers;
}

absl::StatusOr<PlacementPlan> Plan(const std::vector<uint64_t>& limits, const std::vector<uint64_t>& bytes,
                                   int layers) {
  const std::vector<PlacementWorker> workers = Workers(limits);
  return PlanPlacement({workers, bytes, layers, static_cast<int>(bytes.size()) / std::max(layers, 1)});
}

// Experts of each worker in layer 0.
std::vector<int> Counts(const absl::StatusOr<PlacementPlan>& plan, size_t workers, int experts) {
  std::vector<int> counts(workers, 0);
  if (!plan.ok()) return counts;
  for (int e = 0; e < experts; ++e) ++counts[plan->owner[e]];
  return counts;
}

std::vector<int> Split(const std::vector<uint64_t>& limits, int experts, uint64_t bytes = 1000,
                       int layers = 3) {
  const auto plan = Plan(limits, std::vector<uint64_t>(layers * experts, bytes), layers);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return Counts(plan, limits.size(), experts);
}

TEST(PlacementTest, EqualWorkersGetAlignedRanges) {
  EXPECT_THAT(Split({0}, 16), ElementsAre(16));
  EXPECT_THAT(Split({0, 0}, 16), ElementsAre(8, 8));
  EXPECT_THAT(Split({0, 0, 0}, 16), ElementsAre(6, 6, 4));
  EXPECT_THAT(Split({0, 0, 0, 0}, 16), ElementsAre(4, 4, 4, 4));
  EXPECT_THAT(Split({0, 0, 0, 0, 0}, 16), ElementsAre(4, 4, 4, 2, 2));
  EXPECT_THAT(Split(std::vector<uint64_t>(8, 0), 16), testing::Each(2));
  EXPECT_THAT(Split(std::vector<uint64_t>(16, 0), 16), testing::Each(1));
  EXPECT_THAT(Split({0, 0}, 128), ElementsAre(64, 64));
  EXPECT_THAT(Split({0, 0, 0}, 128), ElementsAre(48, 48, 32));
}

TEST(PlacementTest, EqualLimitsSplitLikeNone) {
  const uint64_t limit = 3 * 16 * 1000;
  EXPECT_THAT(Split({limit, limit}, 16), ElementsAre(8, 8));
  EXPECT_THAT(Split({limit, limit, limit}, 16), ElementsAre(6, 6, 4));
}

TEST(PlacementTest, SharesFollowLimits) {
  EXPECT_THAT(Split({36000, 12000}, 16), ElementsAre(12, 4));
  EXPECT_THAT(Split({12000, 36000}, 16), ElementsAre(4, 12));
  EXPECT_THAT(Split({27000, 21000}, 16), ElementsAre(9, 7));  // limits leave no other plan
  EXPECT_THAT(Split({54000, 42000}, 16),
              ElementsAre(8, 8));  // within a quarter, and two parts in place of five
}

TEST(PlacementTest, AWorkerWithoutALimitCountsAsTheModel) {
  EXPECT_THAT(Split({0, 48000}, 16), ElementsAre(8, 8));
  EXPECT_THAT(Split({0, 12000}, 16), ElementsAre(12, 4));  // shares 48 : 12
  EXPECT_THAT(Split({0, 480000}, 16), ElementsAre(8, 8));  // a large limit is no more than none
}

TEST(PlacementTest, MoreWorkersThanExpertsLeavesSomeEmpty) {
  const std::vector<int> counts = Split(std::vector<uint64_t>(7, 0), 4);
  EXPECT_EQ(std::count(counts.begin(), counts.end(), 1), 4);
  EXPECT_EQ(std::count(counts.begin(), counts.end(), 0), 3);
}

TEST(PlacementTest, AWorkerTooSmallForOneExpertHoldsNone) {
  EXPECT_THAT(Split({24000, 100, 24000}, 16), ElementsAre(8, 0, 8));
}

TEST(PlacementTest, UnequalExpertsBalanceByBytes) {
  // One expert weighs as much as the other three.
  EXPECT_THAT(Counts(Plan({0, 0}, {90, 30, 30, 30}, 1), 2, 4), ElementsAre(1, 3));
  // Layers of different quantisation add up by expert.
  const auto plan = Plan({0, 0}, {4, 4, 4, 4, 9, 9, 9, 9}, 2);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->worker_bytes, ElementsAre(26, 26));
  EXPECT_THAT(plan->owner, ElementsAre(0, 0, 1, 1, 0, 0, 1, 1));
}

TEST(PlacementTest, EmptySlicesArePlaced) {
  const auto plan = Plan({0, 0}, {0, 0, 0, 8, 0, 0, 0, 8}, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->worker_bytes, ElementsAre(8, 8));
  EXPECT_THAT(plan->owner, ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
  EXPECT_TRUE(Plan({0, 5}, {0, 0, 0}, 1).ok());
}

TEST(PlacementTest, ErrorsNameBytes) {
  const auto few = Plan({40, 30}, {10, 10, 10, 10, 10, 10, 10, 10}, 1);
  EXPECT_EQ(few.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(few.status().message()), HasSubstr("need 80 bytes, 2 workers have 70 bytes"));

  const auto coarse = Plan({15, 15, 15}, {10, 10, 10, 10}, 1);
  EXPECT_EQ(coarse.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(coarse.status().message()),
              HasSubstr("need 40 bytes, 3 workers have 45 bytes, in shares"));

  const auto giant = Plan({15, 15}, {5, 5, 5, 9, 5, 5, 5, 9}, 2);
  EXPECT_EQ(giant.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(giant.status().message()), HasSubstr("expert 3 needs 18 bytes over all layers"));
  EXPECT_THAT(std::string(giant.status().message()), HasSubstr("largest worker has 15"));

  const auto none = Plan({}, {1, 2}, 1);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("3 bytes"));

  EXPECT_EQ(Plan({0}, {1, 2, 3}, 2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Plan({0}, {}, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Plan({0}, {uint64_t{1} << 63, 1}, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PlacementTest, HugeLimitsDoNotOverflow) {
  const uint64_t max = ~uint64_t{0};
  EXPECT_THAT(Split({max, max}, 16), ElementsAre(8, 8));
  EXPECT_THAT(Split({max, 0, max}, 16), ElementsAre(6, 6, 4));
}

// Nodes of the tree that cover exactly [begin, end), by recursion from the root: a second way to count.
int TreeBlocks(int begin, int end, int node_begin, int node_end) {
  if (end <= node_begin || node_end <= begin) return 0;
  if (begin <= node_begin && node_end <= end) return 1;
  const int middle = (node_begin + node_end) / 2;
  return TreeBlocks(begin, end, node_begin, middle) + TreeBlocks(begin, end, middle, node_end);
}

// Over all edges 0 <= c1 <= c2 ... <= experts.
void ForEachEdges(int workers, int experts, std::vector<int> edges,
                  const std::function<void(const std::vector<int>&)>& body) {
  if (static_cast<int>(edges.size()) == workers) {
    edges.push_back(experts);
    body(edges);
    return;
  }
  for (int next = edges.back(); next <= experts; ++next) {
    std::vector<int> longer = edges;
    longer.push_back(next);
    ForEachEdges(workers, experts, longer, body);
  }
}

struct Judged {
  bool fits = true;
  double overload = 0;
  int idle = 0;
  int blocks = 0;
};

Judged Judge(const std::vector<int>& edges, const std::vector<uint64_t>& limits,
             const std::vector<uint64_t>& bytes) {
  const double total = std::max<double>(1, std::accumulate(bytes.begin(), bytes.end(), 0.0));
  const double most = std::max<double>(total, *std::max_element(limits.begin(), limits.end()));
  double sum = 0;
  for (uint64_t limit : limits) sum += limit == 0 ? most : limit;
  Judged judged;
  for (size_t w = 0; w < limits.size(); ++w) {
    uint64_t load = 0;
    for (int e = edges[w]; e < edges[w + 1]; ++e) load += bytes[e];
    judged.fits = judged.fits && (limits[w] == 0 || load <= limits[w]);
    judged.idle += load == 0;
    judged.overload = std::max(judged.overload, load / ((limits[w] == 0 ? most : limits[w]) * (total / sum)));
    judged.blocks += TreeBlocks(edges[w], edges[w + 1], 0, 16);
  }
  return judged;
}

TEST(PlacementTest, MatchesBruteForce) {
  constexpr uint32_t kSeed = 7;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 rng(kSeed);
  int placed = 0;
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    const int experts = 1 + rng() % 9;
    const int workers = 1 + rng() % 4;
    const int layers = 1 + rng() % 3;
    std::vector<uint64_t> expert_bytes(layers * experts);
    std::vector<uint64_t> bytes(experts, 0);
    const bool equal = rng() % 2 == 0;
    for (size_t i = 0; i < expert_bytes.size(); ++i) {
      expert_bytes[i] = equal ? 8 : rng() % 5 == 0 ? 0 : rng() % 20;
      bytes[i % experts] += expert_bytes[i];
    }
    const uint64_t total = std::accumulate(bytes.begin(), bytes.end(), uint64_t{0});
    std::vector<uint64_t> limits(workers);
    for (uint64_t& limit : limits) limit = rng() % 4 == 0 ? 0 : 1 + rng() % (2 * total / workers + 2);

    double least = 1e300;
    ForEachEdges(workers, experts, {0}, [&](const std::vector<int>& edges) {
      const Judged j = Judge(edges, limits, bytes);
      if (j.fits) least = std::min(least, j.overload);
    });
    const double bound = std::max(1.25, least) * (1 + 1e-12);
    std::pair<int, int> cheapest = {1 << 20, 0};
    ForEachEdges(workers, experts, {0}, [&](const std::vector<int>& edges) {
      const Judged j = Judge(edges, limits, bytes);
      if (j.fits && j.overload <= bound) cheapest = std::min(cheapest, {j.idle, j.blocks});
    });

    const auto plan = Plan(limits, expert_bytes, layers);
    ASSERT_EQ(plan.ok(), least < 1e300) << "round " << round << ": " << plan.status();
    if (!plan.ok()) {
      EXPECT_EQ(plan.status().code(), absl::StatusCode::kFailedPrecondition);
      ++refused;
      continue;
    }
    ++placed;
    // Every expert exactly once, in ascending ranges, the same in every layer.
    ASSERT_EQ(plan->owner.size(), expert_bytes.size());
    std::vector<int> edges(workers + 1, 0);
    std::vector<uint64_t> worker_bytes(workers, 0);
    for (size_t i = 0; i < expert_bytes.size(); ++i) {
      const int owner = plan->owner[i];
      ASSERT_GE(owner, 0);
      ASSERT_LT(owner, workers);
      ASSERT_EQ(owner, plan->owner[i % experts]);
      if (i % experts != 0) {
        ASSERT_GE(owner, plan->owner[i - 1]);
      }
      worker_bytes[owner] += expert_bytes[i];
    }
    ASSERT_EQ(plan->worker_bytes, worker_bytes);
    for (int w = 0; w < workers; ++w) {
      edges[w + 1] = static_cast<int>(std::count_if(plan->owner.begin(), plan->owner.begin() + experts,
                                                    [&](int owner) { return owner <= w; }));
    }
    const Judged j = Judge(edges, limits, bytes);
    EXPECT_TRUE(j.fits) << "round " << round;
    EXPECT_LE(j.overload, bound) << "round " << round;
    EXPECT_EQ(std::make_pair(j.idle, j.blocks), cheapest) << "round " << round;
  }
  EXPECT_GT(placed, 500);
  EXPECT_GT(refused, 200);
}

TEST(PlacementTest, SamePlanEachTime) {
  const std::vector<uint64_t> limits = {900, 0, 1300, 777, 4000};
  std::vector<uint64_t> bytes(2 * 61);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = 5 + i * 7 % 11;
  const auto first = Plan(limits, bytes, 2);
  const auto second = Plan(limits, bytes, 2);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->owner, second->owner);
}

}  // namespace
}  // namespace moepool
