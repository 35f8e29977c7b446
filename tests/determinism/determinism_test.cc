// The same bits for every placement, transport, order, batch, chunk, thread count and instruction set, with
// and without the prefix cache, and however often sequences are preempted; for each type of the KV cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "tests/determinism/scenario.h"

namespace moepool {

std::vector<TransportCase> DeterminismTransports();  // of this binary

namespace {

class DeterminismTest : public ::testing::TestWithParam<std::pair<std::string, SynthSpec>> {};

// What a scarce cache can hold a small multiple of.
bool IsShort(const SequenceRequest& request) { return request.prompt.size() <= 100; }

TEST_P(DeterminismTest, LogitsDependOnModelAndRequestsAlone) {
  const std::vector<TransportCase> transports = DeterminismTransports();
  const auto model = MakeModel(GetParam().second);
  const bool window = model->Config().sliding_window > 0;
  const std::vector<SequenceRequest> all = ScenarioRequests();
  std::vector<SequenceRequest> short_ones;
  std::copy_if(all.begin(), all.end(), std::back_inserter(short_ones), IsShort);
  std::map<KvType, LogitHashes> expected;
  std::map<KvType, LogitHashes> expected_short;
  const std::vector<KvType> kv_types = KvTypes(model->Config());
  for (const KvType type : kv_types) {
    Scenario plain;
    plain.kv_type = type;
    expected[type] = RunScenario(model, all, plain, transports);
    ASSERT_EQ(expected[type].size(), 20u + 26 + 29 + 32 + 35 + 38 + 4 * 4);
    expected_short[type] = RunScenario(model, short_ones, plain, transports);
    for (const auto& [place, hash] : expected_short[type]) EXPECT_EQ(expected[type].at(place), hash);
  }
  EXPECT_NE(expected[KvType::kF16], expected[KvType::kF32]);
  EngineStats cached;
  EngineStats scarce;
  EngineStats preempted;
  for (const Scenario& scenario : PairwiseScenarios(static_cast<int>(transports.size()), kv_types)) {
    SCOPED_TRACE(::testing::PrintToString(scenario));
    // Behind a window the long ones fit into a scarce cache too.
    const bool fits = scenario.memory != Memory::kScarce || window;
    EngineStats stats;
    EXPECT_EQ(RunScenario(model, fits ? all : short_ones, scenario, transports, &stats),
              (fits ? expected : expected_short)[scenario.kv_type]);
    if (HasFailure()) return;
    if (scenario.prefix_cache) cached.prefix_hits += stats.prefix_hits;
    if (scenario.memory == Memory::kScarce) scarce.preemptions += stats.preemptions;
    if (scenario.memory == Memory::kPreempt) preempted.preemptions += stats.preemptions;
  }
  // What the scenarios are about has happened.
  EXPECT_GE(cached.prefix_hits, 288u);
  EXPECT_GE(scarce.preemptions, 1u);
  EXPECT_GE(preempted.preemptions, 100u);
}

INSTANTIATE_TEST_SUITE_P(Models, DeterminismTest, ::testing::ValuesIn(ScenarioModels()),
                         [](const auto& info) { return info.param.first; });

}  // namespace
}  // namespace moepool
