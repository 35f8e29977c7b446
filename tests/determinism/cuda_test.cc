// Whole models through the CUDA backend, as trunk, as workers and as both: the logits are the CPU's. One
// binary has the emulated device (emulated_cuda.cc), one a GPU (tests/gpu/gpu_cuda.cc).
#include "tests/determinism/cuda_test.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>

namespace moepool {
namespace {

class CudaModelTest : public ::testing::TestWithParam<std::pair<std::string, SynthSpec>> {};

TEST_P(CudaModelTest, LogitsAreTheCpus) {
  const auto model = MakeModel(GetParam().second);
  const std::vector<SequenceRequest> requests = CudaRequests();
  const std::vector<TransportCase> transports = CudaTransports();
  std::map<KvType, LogitHashes> seen;
  for (const KvType type : KvTypes(model->Config())) {
    if (type == KvType::kBF16) continue;  // differs from F16 in kernels that cuda_attention_test runs
    SCOPED_TRACE(static_cast<int>(type));
    Scenario scenario;
    scenario.kv_type = type;
    scenario.workers = 2;
    const LogitHashes expected = RunScenario(model, requests, scenario, transports);
    ASSERT_GT(expected.size(), requests.size());
    seen[type] = expected;
    scenario.step_tokens = 64;  // the longer prompts come in pieces
    scenario.make_trunk = scenario.make_worker = MakeCuda;
    EXPECT_EQ(RunScenario(model, requests, scenario, transports), expected);
    if (type != KvType::kF16) continue;
    scenario.micro_batches = 2;
    for (const bool short_first : {false, true}) {
      scenario.short_first = short_first;
      EngineStats stats;
      EXPECT_EQ(RunScenario(model, requests, scenario, transports, &stats), expected);
      EXPECT_GE(stats.steps_by_micro_batches[1], 1u);
    }
    scenario.short_first = false;
    for (scenario.transport = 1; scenario.transport < static_cast<int>(transports.size());
         ++scenario.transport) {
      EXPECT_EQ(RunScenario(model, requests, scenario, transports), expected) << scenario;
    }
    scenario.transport = 0;
    scenario.micro_batches = 1;
    scenario.direct = true;
    EXPECT_EQ(RunScenario(model, requests, scenario, transports), expected);
    scenario.direct = false;
    scenario.make_worker = {};
    EXPECT_EQ(RunScenario(model, requests, scenario, transports), expected);
    scenario.make_worker = MakeCuda;
    scenario.make_trunk = {};
    EXPECT_EQ(RunScenario(model, requests, scenario, transports), expected);
  }
  EXPECT_NE(seen[KvType::kF16], seen[KvType::kF32]);
}

// Enough streams that steps of one token each are cut too, whose segments are recorded and replayed.
TEST_P(CudaModelTest, TwoMicroBatchesDecodeAlike) {
  const auto model = MakeModel(GetParam().second);
  const std::vector<TransportCase> transports = CudaTransports();
  std::vector<SequenceRequest> requests;
  for (int i = 0; i < 11; ++i) {
    SequenceRequest request;
    request.request_id = "stream-" + std::to_string(i);
    for (int t = 0; t < 2 + i % 3; ++t) request.prompt.push_back((i * 29 + t * 7) % 256);
    request.max_tokens = 6;
    requests.push_back(std::move(request));
  }
  Scenario scenario;
  scenario.workers = 2;
  const LogitHashes expected = RunScenario(model, requests, scenario, transports);
  scenario.make_trunk = scenario.make_worker = MakeCuda;
  scenario.micro_batches = 2;
  for (scenario.transport = 0; scenario.transport < static_cast<int>(transports.size());
       ++scenario.transport) {
    EngineStats stats;
    SegmentStats segments;
    EXPECT_EQ(RunScenario(model, requests, scenario, transports, &stats, &segments), expected) << scenario;
    EXPECT_GE(stats.steps_by_micro_batches[1], 4u);
    EXPECT_GT(segments.replayed, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaModelTest, ::testing::ValuesIn(ScenarioModels()),
                         [](const auto& info) { return info.param.first; });

}  // namespace
}  // namespace moepool
