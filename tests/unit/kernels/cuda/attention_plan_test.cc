// Which thread block attends to what: every split that a row sees once for every head, within the kernels'
// limits, and partial results where they have room.
#include <map>
#include <tuple>

#include "tests/unit/kernels/cuda/attention_scenarios.h"

namespace moepool {
namespace {

// (row, head of those that share a KV head, split) -> how often
using Cover = std::map<std::tuple<int, int, int>, int>;

Cover Covered(const AttentionPlan& plan, bool wide_kernel) {
  Cover cover;
  for (const auto* units : {&plan.narrow, &plan.wide}) {
    for (const AttendUnit& u : *units) {
      const int queries = u.rows * u.heads;
      EXPECT_LE(queries, units == &plan.narrow ? plan.narrow_queries : kWideQueries);
      if (units == &plan.wide) {
        EXPECT_TRUE(wide_kernel && queries > kNarrowQueries);
      }
      for (int row = u.row_begin; row < u.row_begin + u.rows; ++row) {
        const AttendRow& r = plan.rows[static_cast<size_t>(row)];
        EXPECT_EQ(r.table, plan.rows[static_cast<size_t>(u.row_begin)].table);
        if (r.partial >= 0) {
          EXPECT_EQ(u.split_end, u.split_begin + 1);
        }
        for (int split = u.split_begin; split < u.split_end; ++split) {
          if (split < r.first_key / kAttentionSplit || split > r.position / kAttentionSplit) continue;
          for (int h = u.head_begin; h < u.head_begin + u.heads; ++h) ++cover[{row, h, split}];
        }
      }
    }
  }
  return cover;
}

TEST(AttentionPlanTest, EverySplitOfEveryRowIsOneUnits) {
  std::mt19937_64 rng(kTestSeed);
  const auto upto = [&](int n) { return static_cast<int>(rng() % static_cast<uint64_t>(n)); };
  AttentionPlan plan;  // whose memory is used again
  for (int round = 0; round < 60; ++round) {
    const int ratio = 1 + upto(40);
    AttentionShape shape = MakeShape(ratio * (1 + upto(16)), 1, upto(2) == 0 ? 64 : 6);
    shape.kv_heads = shape.heads / ratio;
    shape.window = upto(2) * (1 + upto(900));
    std::vector<std::vector<int32_t>> tables;
    std::vector<int32_t> positions;
    std::vector<int> sequence;
    for (int s = upto(5); s >= 0; --s) {
      int position = upto(2000);
      for (int n = upto(3) * upto(100); n >= 0; --n) {
        positions.push_back(position);
        sequence.push_back(static_cast<int>(tables.size()));
        position += 1 + upto(2);
      }
      tables.emplace_back(static_cast<size_t>(position / kKvBlockTokens + 1));
      for (int32_t& block : tables.back()) block = upto(1 << 30);
    }
    std::vector<const int32_t*> table;
    for (const int s : sequence) table.push_back(tables[static_cast<size_t>(s)].data());
    const AttentionBatch batch = {static_cast<int>(positions.size()), positions.data(), table.data(), nullptr,
                                  nullptr};
    const int64_t room = upto(3) * upto(2000);
    PlanAttention(shape, batch, room, &plan);

    ASSERT_EQ(plan.rows.size(), positions.size());
    Cover expected;
    std::vector<int> owner(static_cast<size_t>(plan.partials), -1);
    std::vector<int32_t> merged;
    for (int row = 0; row < batch.rows; ++row) {
      const AttendRow& r = plan.rows[static_cast<size_t>(row)];
      ASSERT_EQ(r.position, positions[static_cast<size_t>(row)]);
      ASSERT_EQ(r.first_key, shape.window > 0 ? std::max(0, r.position - shape.window + 1) : 0);
      for (int b = r.first_key / kKvBlockTokens; b <= r.position / kKvBlockTokens; ++b) {
        ASSERT_EQ(plan.blocks.at(static_cast<size_t>(r.table + b)), table[static_cast<size_t>(row)][b]);
      }
      const int first = r.first_key / kAttentionSplit;
      const int last = r.position / kAttentionSplit;
      for (int split = first; split <= last; ++split) {
        for (int h = 0; h < ratio; ++h) expected[{row, h, split}] = 1;
        if (r.partial < 0) continue;
        ASSERT_EQ(std::exchange(owner.at(static_cast<size_t>(r.partial + split - first)), row), -1);
      }
      if (r.partial < 0) continue;
      EXPECT_GT(last, first);
      merged.push_back(row);
    }
    ASSERT_EQ(Covered(plan, shape.head_dim % 4 == 0), expected) << round;
    std::sort(plan.merged.begin(), plan.merged.end());
    ASSERT_EQ(plan.merged, merged);
    ASSERT_LE(plan.partials, room);
    ASSERT_EQ(std::count(owner.begin(), owner.end(), -1), 0);
  }
}

// One sequence deep into its context: as many thread blocks as splits, or a GPU would be idle.
TEST(AttentionPlanTest, DecodeIsSharedOutBySplits) {
  std::vector<int32_t> blocks(8192 / kKvBlockTokens);
  const int32_t position = 8191;
  const int32_t* const table = blocks.data();
  const AttentionBatch batch = {1, &position, &table, nullptr, nullptr};
  AttentionPlan plan;
  PlanAttention(MakeShape(32, 8, 128), batch, 1000, &plan);
  EXPECT_EQ(plan.narrow.size(), 32u);
  EXPECT_EQ(plan.narrow_queries, 4);
  EXPECT_EQ(plan.merged, std::vector<int32_t>{0});
  const AttentionExtent extent = ExtentOf(plan);
  EXPECT_EQ(extent, (AttentionExtent{32, 4, 0, 1, 32}));
  EXPECT_EQ(RoundUpExtent(extent, 1, 1000), extent);
}

TEST(AttentionPlanTest, AnExtentIsRoundedUpToOneThatHoldsIt) {
  EXPECT_EQ(RoundUpExtent({}, 9, 1000), AttentionExtent());
  EXPECT_EQ(RoundUpExtent({5, 3, 1, 0, 0}, 9, 1000), (AttentionExtent{8, 4, 1, 0, 0}));
  EXPECT_EQ(RoundUpExtent({33, 5, 3, 2, 33}, 9, 1000), (AttentionExtent{64, 8, 4, 9, 64}));
  EXPECT_EQ(RoundUpExtent({1, 1, 0, 1, 600}, 1, 1000), (AttentionExtent{1, 1, 0, 1, 1000}));
}

}  // namespace
}  // namespace moepool
