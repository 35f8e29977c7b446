// The real model, nightly: the same bits for placements, transports, batches, chunks, threads and instruction
// sets.
#include <gtest/gtest.h>

#include "common/model/gguf_source.h"
#include "tests/determinism/scenario.h"
#include "tests/support/test_model.h"

namespace moepool {
namespace {

TEST(SmolLm2DeterminismTest, LogitsDependOnModelAndRequestsAlone) {
  auto opened = OpenGguf(TestModelPath());
  ASSERT_TRUE(opened.ok()) << opened.status() << "; tests/run.sh fetches this model";
  const std::shared_ptr<const ModelSource> model = std::move(*opened);
  const std::vector<TransportCase> transports = CoreTransportCases();
  Scenario base;
  base.isa = base.worker_isa = "avx2";
  const LogitHashes expected = RunScenario(model, base, transports);
  const auto vary = [&](auto change) {
    Scenario scenario = base;
    change(&scenario);
    SCOPED_TRACE(::testing::PrintToString(scenario));
    EXPECT_EQ(RunScenario(model, scenario, transports), expected);
  };
  vary([](Scenario* s) { s->workers = 2, s->transport = 1; });
  vary([](Scenario* s) { s->workers = 3, s->order = 1, s->step_tokens = 7; });
  vary([](Scenario* s) { s->workers = 5, s->transport = 1, s->threads = 2, s->max_running = 3; });
  vary([](Scenario* s) { s->workers = 16, s->order = 2, s->step_tokens = 64, s->threads = 3; });
  vary([](Scenario* s) { s->workers = 2, s->isa = "scalar", s->worker_isa = "scalar", s->threads = 2; });
}

}  // namespace
}  // namespace moepool
