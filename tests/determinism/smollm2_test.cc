// The real model, nightly: the same bits for placements, transports, batches, chunks, threads and instruction
// sets, with and without the prefix cache, and under preemption.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>

#include "common/base/str.h"
#include "common/kernels/kernels.h"
#include "common/model/gguf_source.h"
#include "common/text/tokenizer.h"
#include "tests/determinism/scenario.h"
#include "tests/support/test_model.h"

namespace moepool {
namespace {

// 24 requests of 1 to 1,400 tokens of Newton's Opticks and answers up to 100, greedy and sampled; six begin
// as others do.
std::vector<SequenceRequest> MixedRequests(const ModelSource& model) {
  std::ifstream file("tests/golden/opticks.txt", std::ios::binary);
  EXPECT_TRUE(file.good());
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::vector<int32_t> ids = MakeTokenizer(model.Tokenizer()).value()->Encode(text, false).value();
  EXPECT_GE(ids.size(), 20'000u);
  struct Part {
    int begin, length, own;  // tokens [begin, begin + length), and so many from elsewhere
  };
  const Part parts[] = {{0, 1, 0},      {100, 2, 0},    {200, 5, 0},      {300, 15, 0},    {400, 16, 0},
                        {500, 17, 0},   {600, 33, 0},   {700, 64, 0},     {900, 100, 0},   {1000, 129, 0},
                        {1200, 200, 0}, {1500, 255, 0}, {2000, 257, 0},   {3000, 400, 0},  {4000, 511, 0},
                        {5000, 700, 0}, {6000, 900, 0}, {7000, 1400, 0},  {7000, 1400, 0}, {7000, 1390, 9},
                        {7000, 512, 1}, {5000, 690, 7}, {3000, 400, 100}, {1500, 240, 3}};
  std::vector<SequenceRequest> requests;
  for (const Part& part : parts) {
    const int i = static_cast<int>(requests.size());
    SequenceRequest& request = requests.emplace_back();
    request.request_id = StrCat("request-", i);
    request.prompt.assign(ids.begin() + part.begin, ids.begin() + part.begin + part.length);
    request.prompt.insert(request.prompt.end(), ids.begin() + 100 * i, ids.begin() + 100 * i + part.own);
    request.max_tokens = i % 6 == 5 ? 100 : 5 + i;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.sampling.temperature = i % 2 == 0 ? 0 : 0.8;
    request.sampling.top_p = 0.95;
  }
  return requests;
}

TEST(SmolLm2DeterminismTest, LogitsDependOnModelAndRequestsAlone) {
  auto opened = OpenGguf(TestModelPath());
  ASSERT_TRUE(opened.ok()) << opened.status() << "; tests/run.sh fetches this model";
  const std::shared_ptr<const ModelSource> model = std::move(*opened);
  const std::vector<TransportCase> transports = CoreTransportCases();
  const std::vector<SequenceRequest> requests = MixedRequests(*model);
  ASSERT_EQ(requests.size(), 24u);
  Scenario base;
  base.isa = base.worker_isa = AvailableKernels().back()->name;
  base.threads = 2;
  std::map<KvType, LogitHashes> expected;
  for (const KvType type : {KvType::kF16, KvType::kQ8_0}) {
    Scenario scenario = base;
    scenario.kv_type = type;
    expected[type] = RunScenario(model, requests, scenario, transports);
  }
  EXPECT_NE(expected[KvType::kF16], expected[KvType::kQ8_0]);
  EngineStats stats;
  const auto vary = [&](auto change) {
    Scenario scenario = base;
    scenario.prefix_cache = true;
    change(&scenario);
    SCOPED_TRACE(::testing::PrintToString(scenario));
    EXPECT_EQ(RunScenario(model, requests, scenario, transports, &stats), expected[scenario.kv_type]);
  };
  vary([](Scenario* s) { s->workers = 2, s->transport = 1, s->order = 1; });
  vary([](Scenario* s) { s->workers = 3, s->order = 2, s->step_tokens = 64; });
  vary([](Scenario* s) { s->memory = Memory::kPreempt, s->workers = 5, s->threads = 1; });
  vary([](Scenario* s) {
    s->memory = Memory::kScarce, s->workers = 16, s->step_tokens = 100, s->threads = 3;
  });
  EXPECT_GE(stats.preemptions, 25u);
  vary([](Scenario* s) { s->kv_type = KvType::kQ8_0, s->memory = Memory::kScarce, s->max_running = 5; });
  vary([](Scenario* s) { s->kv_type = KvType::kQ8_0, s->memory = Memory::kPreempt, s->order = 1; });
  EXPECT_GE(stats.prefix_hits, 6u * 3'000);
}

}  // namespace
}  // namespace moepool
