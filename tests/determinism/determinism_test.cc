// The same bits for every placement, transport, order, batch, chunk, thread count and instruction set.
#include <gtest/gtest.h>

#include "tests/determinism/scenario.h"

namespace moepool {

std::vector<TransportCase> DeterminismTransports();  // of this binary

namespace {

class DeterminismTest : public ::testing::TestWithParam<std::pair<std::string, SynthSpec>> {};

TEST_P(DeterminismTest, LogitsDependOnModelAndRequestsAlone) {
  const std::vector<TransportCase> transports = DeterminismTransports();
  const auto model = MakeModel(GetParam().second);
  const LogitHashes expected = RunScenario(model, Scenario{}, transports);
  ASSERT_EQ(expected.size(), 4u + 7 + 10 + 13 + 16 + 19 + 22);
  const std::vector<Scenario> scenarios = PairwiseScenarios(static_cast<int>(transports.size()));
  for (const Scenario& scenario : scenarios) {
    SCOPED_TRACE(::testing::PrintToString(scenario));
    EXPECT_EQ(RunScenario(model, scenario, transports), expected);
    if (HasFailure()) return;
  }
  RecordProperty("scenarios", static_cast<int>(scenarios.size()));
}

INSTANTIATE_TEST_SUITE_P(Models, DeterminismTest, ::testing::ValuesIn(ScenarioModels()),
                         [](const auto& info) { return info.param.first; });

}  // namespace
}  // namespace moepool
