#include "tools/bench_phases.h"

#include <algorithm>

#include "common/trunk/fake_trunk.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

TEST(LogUniformTest, LengthsAreInRangeAndAsManyInEachOctave) {
  BatchingSpec spec;
  spec.requests = 8000;
  const std::vector<int> lengths = LogUniformLengths(spec);
  ASSERT_EQ(lengths.size(), 8000u);
  EXPECT_EQ(*std::min_element(lengths.begin(), lengths.end()), 16);
  EXPECT_EQ(*std::max_element(lengths.begin(), lengths.end()), 256);
  for (int octave = 16; octave < 256; octave *= 2) {
    const auto in = std::count_if(lengths.begin(), lengths.end(),
                                  [&](int length) { return length >= octave && length < 2 * octave; });
    EXPECT_NEAR(static_cast<double>(in), 2000, 150) << octave;
  }
  EXPECT_EQ(lengths, LogUniformLengths(spec));
  spec.seed = 2;
  EXPECT_NE(lengths, LogUniformLengths(spec));
  spec.min_tokens = spec.max_tokens = 5;
  for (const int length : LogUniformLengths(spec)) EXPECT_EQ(length, 5);
}

// A trunk whose ids take a while, so that rates are finite, and whose totals grow by one step an id.
class CountingTrunk : public Trunk {
 public:
  CountingTrunk() : fake_(Model()) {
    fake_.SetResponder([](const SequenceRequest& request) {
      std::vector<SequenceUpdate> updates(static_cast<size_t>(request.max_tokens));
      for (SequenceUpdate& update : updates) update.ids = {1};
      updates.back().finished = true;
      updates.back().reason = FinishReason::kLength;
      return updates;
    });
  }
  static ModelInfo Model() {
    ModelInfo info;
    info.vocab_size = 100;
    return info;
  }
  absl::StatusOr<ModelInfo> Describe() override { return fake_.Describe(); }
  absl::StatusOr<PoolInfo> Pool() override {
    PoolInfo pool;
    pool.totals = totals_;
    return pool;
  }
  absl::StatusOr<std::unique_ptr<TrunkCall>> Generate(SequenceRequest request,
                                                      UpdateCallback on_update) override {
    prompts_.push_back(static_cast<int>(request.prompt.size()));
    totals_.steps += static_cast<uint64_t>(request.max_tokens);
    totals_.decode_rows += static_cast<uint64_t>(request.max_tokens) - 1;
    totals_.exchange.Add(0.001);
    totals_.exchange_own.Add(0.0001);
    return fake_.Generate(std::move(request), std::move(on_update));
  }

  std::vector<int> prompts_;

 private:
  FakeTrunk fake_;
  EngineTotals totals_;
};

TEST(PhasesTest, PrefillRunsWarmupsThatDoNotCount) {
  CountingTrunk trunk;
  SequenceRunner runner(&trunk, CountingTrunk::Model(), 1, absl::Seconds(60));
  const auto result = MeasurePrefill(&runner, 50, {.warmup = 2, .counted = 3});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(trunk.prompts_, std::vector<int>(5, 50));
  ASSERT_EQ(result->figures.size(), 2u);
  EXPECT_EQ(result->figures[0].first, "tokens_per_s");
  ASSERT_EQ(result->figures[0].second.values.size(), 3u);
  EXPECT_EQ(result->exchange.count(), 3u);
  EXPECT_EQ(result->exchange_own.count(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(result->figures[0].second.values[i] * result->figures[1].second.values[i], 50e3, 1e-6);
  }
}

TEST(PhasesTest, BatchingRunsTheSameLengthsByTurnsAndCountsRowsPerStep) {
  CountingTrunk trunk;
  SequenceRunner runner(&trunk, CountingTrunk::Model(), 1, absl::Seconds(60));
  BatchingSpec spec;
  spec.requests = 6;
  spec.running = 2;
  spec.min_tokens = spec.max_tokens = 4;
  const auto result = MeasureBatching(&runner, spec, {.warmup = 1, .counted = 2});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(trunk.prompts_.size(), 6u * 2 * 3);
  ASSERT_EQ(result->figures.size(), 5u);
  EXPECT_EQ(result->figures[3].first, "continuous_utilisation");
  // Three of four ids come from decoding rows, one row a step of this trunk, of two possible.
  for (size_t k = 3; k < 5; ++k) EXPECT_DOUBLE_EQ(result->figures[k].second.median, 0.75 / 2);
  EXPECT_EQ(result->exchange.count(), 6u * 2 * 2);
  EXPECT_EQ(result->shape.back(), (std::pair<std::string, int64_t>("tokens", 24)));
}

}  // namespace
}  // namespace moepool
