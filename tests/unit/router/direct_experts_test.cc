// The engine with a trunk that runs the experts itself: same tokens, choices and counts as by dispatches, on
// the CPU and on the emulated GPU, for which the host waits once a step.
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "common/backend/cuda/cuda_backend.h"
#include "common/model/synthetic.h"
#include "router/engine.h"
#include "router/local_pool.h"
#include "tests/support/run_sequence.h"
#include "tests/support/simt/emulated_device.h"
#include "tests/unit/router/spoilt_source.h"

namespace moepool {
namespace {

constexpr int kLayers = 3;

SynthSpec Spec() {
  SynthSpec spec;
  spec.family = "qwen2moe";
  spec.layers = kLayers;
  spec.experts = 12;
  spec.experts_per_token = 4;
  spec.ffn = 32;
  spec.shared_ffn = 64;
  spec.vocab = 300;
  spec.dtype = DType::kF32;
  return spec;
}

SequenceRequest Request(std::string id, std::vector<int32_t> prompt) {
  SequenceRequest request;
  request.request_id = std::move(id);
  request.prompt = std::move(prompt);
  request.max_tokens = 4;
  return request;
}

std::vector<int32_t> Prompt(int length) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < length; ++i) prompt.push_back(20 + i * 37 % 200);
  return prompt;
}

// A model served in this process: its trunk on the CPU or the emulated device.
class Served {
 public:
  Served(bool cuda, int workers, EngineOptions options = {}) {
    source_ = std::make_shared<SpoiltSource>(MakeSyntheticSource(Spec()).value());
    if (cuda) {
      auto device = std::make_unique<EmulatedDevice>();
      device_ = device.get();
      backend_ = CudaBackend::Create(std::move(device), {.self_check = false}).value();
    } else {
      backend_ = MakeBackend({"cpu", "auto", 1}).value();
    }
    pool_ = LocalPool::Create(source_, backend_.get(), workers).value();
    EXPECT_EQ(pool_->Routes()->backend, workers == 1 ? backend_.get() : nullptr);
    options.kv_bytes = 1 << 20;
    options.prefix_cache = false;
    options.limits.token_budget = 8;
    engine_ = Engine::Create(backend_.get(), source_, pool_.get(), std::move(options)).value();
  }
  Engine& engine() { return *engine_; }
  const EmulatedDevice& device() const { return *device_; }
  SegmentStats segments() { return backend_->Segments(); }
  EngineStats Idle() {
    EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
    return engine_->Stats();
  }

 private:
  std::shared_ptr<const ModelSource> source_;
  EmulatedDevice* device_ = nullptr;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<LocalPool> pool_;
  std::unique_ptr<Engine> engine_;
};

// What gates chose, by layer and position, of rows that were given something.
struct Choices {
  DecoderHooks Hooks() {
    DecoderHooks hooks;
    hooks.on_gate = [this](int layer, std::span<const StepRow> rows,
                           std::span<const SelectedExpert> selected) {
      const size_t k = selected.size() / rows.size();
      for (size_t t = 0; t < rows.size(); ++t) {
        of[{layer, rows[t].position}] = {&selected[t * k], &selected[t * k] + k};
      }
    };
    return hooks;
  }
  std::map<std::pair<int, int>, std::vector<SelectedExpert>> of;
};

class DirectExpertsTest : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Trunks, DirectExpertsTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "cuda" : "cpu"; });

TEST_P(DirectExpertsTest, ChoosesAndCountsAsByDispatches) {
  Choices choices[2];
  SequenceResult results[2];
  EngineStats stats[2];
  std::vector<uint64_t> tokens[2];
  for (const int direct : {0, 1}) {
    EngineOptions options;
    options.decoder = choices[direct].Hooks();
    Served served(direct == 1 && GetParam(), direct == 1 ? 1 : 2, std::move(options));
    results[direct] = RunSequence(&served.engine(), Request("r", Prompt(20)));
    stats[direct] = served.Idle();
    const PoolInfo info = served.engine().Pool().value();
    tokens[direct] = info.expert_tokens;
    if (direct == 1) {
      EXPECT_EQ(info.workers.at(0).rows, 23u * kLayers);
    }
  }
  EXPECT_TRUE(results[1].status.ok()) << results[1].status;
  EXPECT_EQ(results[1].ids, results[0].ids);
  EXPECT_EQ(choices[1].of.size(), 23u * kLayers);
  EXPECT_TRUE(choices[1].of == choices[0].of);
  EXPECT_EQ(tokens[1], tokens[0]);
  EXPECT_EQ(stats[1].dispatch.rows, stats[0].dispatch.rows);
  EXPECT_EQ(stats[1].dispatch.rows_by_parts[1], 23u * kLayers);
  EXPECT_EQ(stats[1].dispatch.parts, 23u * kLayers);
}

TEST_P(DirectExpertsTest, ARowThatIsNotFiniteFailsItsRequestAlone) {
  std::map<std::string, int> seen;
  EngineOptions options;
  options.on_logits = [&](const std::string& id, int, std::span<const float>) { ++seen[id]; };
  Served served(GetParam(), 1, std::move(options));
  const std::vector<int32_t> alone = RunSequence(&served.engine(), Request("alone", {1, 2, 3})).ids;
  EXPECT_EQ(alone.size(), 4u);
  const EngineStats before = served.Idle();
  const SequenceResult bad = RunSequence(&served.engine(), Request("bad", {4, 5, kPoison, 6}));
  EXPECT_EQ(bad.status.code(), absl::StatusCode::kDataLoss) << bad.status;
  EXPECT_NE(bad.status.message().find("position 2"), std::string::npos) << bad.status;
  EXPECT_EQ(seen["bad"], 0);
  const EngineStats after = served.Idle();
  EXPECT_EQ(after.dispatch.rows - before.dispatch.rows, 4u * kLayers);
  // Position 2 is given to no expert, the one behind it, which sees its keys, to none after the first layer.
  EXPECT_LE(after.dispatch.parts - before.dispatch.parts, 3u * kLayers);
  EXPECT_GE(after.dispatch.parts - before.dispatch.parts, 2u * kLayers);
  EXPECT_EQ(RunSequence(&served.engine(), Request("again", {1, 2, 3})).ids, alone);
}

TEST(DirectExpertsOnADeviceTest, TheHostWaitsOnceAStep) {
  Served served(/*cuda=*/true, /*workers=*/1);
  const uint64_t before = served.device().synchronizations();
  // Two of its steps want no logits.
  EXPECT_TRUE(RunSequence(&served.engine(), Request("r", Prompt(20))).status.ok());
  const EngineStats stats = served.Idle();
  EXPECT_EQ(stats.steps, 6u);
  EXPECT_EQ(served.device().synchronizations() - before, stats.steps);
  const std::vector<uint64_t> tokens = served.engine().Pool().value().expert_tokens;
  EXPECT_EQ(std::accumulate(tokens.begin(), tokens.end(), uint64_t{0}), 23u * kLayers * 4);
}

// Layers as a whole where the trunk has the experts, and up to their exchange where workers do.
class SegmentsOnADeviceTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Workers, SegmentsOnADeviceTest, ::testing::Values(1, 2),
                         [](const auto& info) { return info.param == 1 ? "none" : "two"; });

TEST_P(SegmentsOnADeviceTest, WhatComesAgainIsReplayed) {
  SequenceRequest request = Request("r", Prompt(250));
  request.max_tokens = 12;  // past a split of the context
  Served cpu(/*cuda=*/false, GetParam());
  Served cuda(/*cuda=*/true, GetParam());
  const std::vector<int32_t> expected = RunSequence(&cpu.engine(), request).ids;
  ASSERT_EQ(expected.size(), 12u);
  EXPECT_EQ(cpu.segments().recorded, 0u);
  for (int round = 0; round < 3; ++round) {
    const SegmentStats before = cuda.segments();
    const uint64_t steps_before = cuda.Idle().steps;
    EXPECT_EQ(RunSequence(&cuda.engine(), request).ids, expected) << round;
    const uint64_t segments = (cuda.Idle().steps - steps_before) * kLayers;
    const uint64_t replayed = cuda.segments().replayed - before.replayed;
    if (round == 0) {
      EXPECT_GT(replayed, segments / 2);
    }
    if (round < 2) continue;
    EXPECT_EQ(replayed, segments);
    EXPECT_EQ(cuda.segments().recorded, before.recorded);
  }
}

TEST_P(SegmentsOnADeviceTest, ARowThatIsNotFiniteFailsInAReplay) {
  Served served(/*cuda=*/true, GetParam());
  const SequenceRequest good = Request("good", {1, 2, 3, 4});
  const std::vector<int32_t> alone = RunSequence(&served.engine(), good).ids;
  for (int round = 0; round < 4; ++round) {
    const SegmentStats before = served.segments();
    const SequenceResult bad = RunSequence(&served.engine(), Request("bad", {4, 5, kPoison, 6}));
    EXPECT_EQ(bad.status.code(), absl::StatusCode::kDataLoss) << bad.status;
    EXPECT_NE(bad.status.message().find("position 2"), std::string::npos) << bad.status;
    if (round > 0) {
      EXPECT_EQ(served.segments().replayed - before.replayed, uint64_t{kLayers});
    }
    EXPECT_EQ(RunSequence(&served.engine(), good).ids, alone);
  }
}

}  // namespace
}  // namespace moepool
