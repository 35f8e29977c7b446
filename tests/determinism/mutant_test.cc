// Linked with naive_sum.cc: the determinism test must be able to fail.
#include <gtest/gtest.h>

#include "tests/determinism/scenario.h"

namespace moepool {
namespace {

TEST(NaiveCombineTest, GivesOtherLogitsWithOtherPlacements) {
  for (const auto& [name, spec] : ScenarioModels()) {
    SCOPED_TRACE(name);
    const auto model = MakeModel(spec);
    Scenario five;
    five.workers = 5;
    const std::vector<TransportCase> transports = CoreTransportCases();
    const LogitHashes one_worker = RunScenario(model, ScenarioRequests(), Scenario{}, transports);
    EXPECT_EQ(RunScenario(model, ScenarioRequests(), Scenario{}, transports), one_worker);
    // Two experts a row have one sum in any order, so only more than two can tell.
    if (spec.experts_per_token == 2) continue;
    EXPECT_NE(RunScenario(model, ScenarioRequests(), five, transports), one_worker);
  }
}

}  // namespace
}  // namespace moepool
