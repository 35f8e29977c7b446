// The same bits for every placement, transport, order, batch, chunk, micro-batch, thread count and
// instruction set, with and without the prefix cache, and however often sequences are preempted; for each
// type of the KV cache.
#include <gtest/gtest.h>

#include <map>

#include "tests/determinism/scenario.h"

namespace moepool {

std::vector<TransportCase> DeterminismTransports();  // of this binary

namespace {

class DeterminismTest : public ::testing::TestWithParam<std::pair<std::string, SynthSpec>> {};

// For a cache that holds little more than one of them: answers that outgrow what is free at their admission.
// Behind a window the long prompts fit too.
std::vector<SequenceRequest> ScarceRequests(bool window) {
  std::vector<SequenceRequest> requests = ScenarioRequests();
  const auto is_long = [](const SequenceRequest& request) { return request.prompt.size() > 100; };
  if (!window) std::erase_if(requests, is_long);
  for (SequenceRequest& request : requests) {
    if (!is_long(request)) request.max_tokens = 60;
  }
  return requests;
}

// Runs each `stride`-th scenario, beginning with the one numbered `first`.
void ExpectTheSameLogits(const SynthSpec& spec, size_t first, size_t stride) {
  const std::vector<TransportCase> transports = DeterminismTransports();
  const auto model = MakeModel(spec);
  const std::vector<SequenceRequest> all = ScenarioRequests();
  const std::vector<SequenceRequest> few = ScarceRequests(model->Config().sliding_window > 0);
  std::map<KvType, LogitHashes> expected;
  std::map<KvType, LogitHashes> expected_few;
  const std::vector<KvType> kv_types = KvTypes(model->Config());
  for (const KvType type : kv_types) {
    Scenario plain;
    plain.kv_type = type;
    expected[type] = RunScenario(model, all, plain, transports);
    ASSERT_EQ(expected[type].size(), 20u + 26 + 29 + 32 + 35 + 38 + 4 * 4);
    expected_few[type] = RunScenario(model, few, plain, transports);
  }
  EXPECT_NE(expected[KvType::kF16], expected[KvType::kF32]);
  uint64_t scarce_preemptions = 0;
  const std::vector<Scenario> scenarios = PairwiseScenarios(static_cast<int>(transports.size()), kv_types);
  for (size_t i = first; i < scenarios.size(); i += stride) {
    const Scenario& scenario = scenarios[i];
    SCOPED_TRACE(::testing::PrintToString(scenario));
    const bool plenty = scenario.memory != Memory::kScarce;
    EngineStats stats;
    EXPECT_EQ(RunScenario(model, plenty ? all : few, scenario, transports, &stats),
              (plenty ? expected : expected_few)[scenario.kv_type]);
    // What the scenario is about has happened.
    if (scenario.prefix_cache && plenty && scenario.order == 2) {
      EXPECT_GE(stats.prefix_hits, 1u);
    }
    if (scenario.memory == Memory::kPreempt) {
      EXPECT_GE(stats.preemptions, 20u);
    }
    const bool large_steps = scenario.step_tokens >= 2 * kMicroBatchAlignment && plenty;
    if (scenario.micro_batches == 2 && !scenario.direct && large_steps) {
      EXPECT_GE(stats.steps_by_micro_batches[1], 1u);
    }
    if (scenario.memory == Memory::kScarce) scarce_preemptions += stats.preemptions;
    if (::testing::Test::HasFailure()) return;
  }
  if (stride == 1) {
    EXPECT_GE(scarce_preemptions, 1u);
  }
}

// Of the scenarios, which hold every pair of settings, a model has a third, and another third than the next.
TEST_P(DeterminismTest, LogitsDependOnModelAndRequestsAlone) {
  const std::vector<std::pair<std::string, SynthSpec>> models = ScenarioModels();
  constexpr size_t kStride = 3;
  size_t number = 0;
  while (models[number].first != GetParam().first) ++number;
  ExpectTheSameLogits(GetParam().second, number % kStride, kStride);
}

TEST_P(DeterminismTest, NightlyWithEveryPairOfSettings) { ExpectTheSameLogits(GetParam().second, 0, 1); }

INSTANTIATE_TEST_SUITE_P(Models, DeterminismTest, ::testing::ValuesIn(ScenarioModels()),
                         [](const auto& info) { return info.param.first; });

}  // namespace
}  // namespace moepool
