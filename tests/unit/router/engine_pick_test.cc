// Ids that the backend picks beside ids that the host samples from fetched logits: the same, in any mixture.
#include <atomic>
#include <memory>
#include <vector>

#include "common/backend/cuda/cuda_backend.h"
#include "tests/support/simt/device_of_kernels.h"
#include "tests/unit/router/engine_testing.h"

namespace moepool {
namespace {

constexpr int kPlain = 6;  // requests of Requests() that need no logits, the first ones

std::vector<SequenceRequest> Requests() {
  std::vector<SequenceRequest> requests(2 * kPlain);
  for (size_t i = 0; i < requests.size(); ++i) {
    SequenceRequest& request = requests[i];
    request.request_id = "r" + std::to_string(i);
    for (size_t j = 0; j < 3 + i; ++j) {
      request.prompt.push_back(static_cast<int32_t>((j * 37 + i * 11 + 5) % 256));
    }
    request.max_tokens = 10;
    SamplingParams& p = request.sampling;
    p.seed = 100 + i;
    p.temperature = 1.5;
    switch (i % kPlain) {
      case 0:
        p.temperature = 0;
        break;
      case 1:
        p.top_k = 20;
        break;
      case 2:
        p.top_p = 0.8;
        break;
      case 3:
        p.min_p = 0.2;
        break;
      case 4:
        p.top_k = 50, p.top_p = 0.5, p.min_p = 0.01;
        break;
      default:
        break;
    }
  }
  requests[kPlain].sampling.logprobs = true;
  requests[kPlain + 1].sampling.repetition_penalty = 1.2;
  requests[kPlain + 2].sampling.presence_penalty = 0.5;
  requests[kPlain + 3].sampling.logit_bias = {{17, 4.0f}};
  requests[kPlain + 4].sampling.min_tokens = 100;
  requests[kPlain + 4].stop_ids = {1, 2};
  requests[kPlain + 5].sampling.dry.multiplier = 1;
  return requests;
}

// All requests at once; ids of each.
std::vector<std::vector<int32_t>> IdsOf(Backend* backend, bool on_host) {
  const std::shared_ptr<const ModelSource> source = MakeSyntheticSource(MixtralSpec()).value();
  auto workers = MakeBackend({"cpu", "auto", 1});
  EXPECT_TRUE(workers.ok()) << workers.status();
  auto pool = LocalPool::Create(source, workers->get(), 1);
  EXPECT_TRUE(pool.ok()) << pool.status();
  EngineOptions options;
  options.kv_bytes = 4 << 20;
  if (on_host) options.on_logits = [](const std::string&, int, std::span<const float>) {};
  auto engine = Engine::Create(backend, source, pool->get(), options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  const std::vector<SequenceRequest> requests = Requests();
  std::vector<Collector> collectors(requests.size());
  std::vector<std::unique_ptr<TrunkCall>> calls;
  for (size_t i = 0; i < requests.size(); ++i) {
    auto call = (*engine)->Generate(requests[i], collectors[i].Callback());
    EXPECT_TRUE(call.ok()) << call.status();
    calls.push_back(std::move(*call));
  }
  std::vector<std::vector<int32_t>> ids;
  for (Collector& collector : collectors) {
    EXPECT_EQ(collector.WaitFinished().reason, FinishReason::kLength);
    ids.push_back(collector.ids());
  }
  return ids;
}

std::atomic<int> rows_picked = 0;
void CountAndPick(const PickArgs& args, void* stream) {
  rows_picked += args.count;
  emulated::Kernels().pick(args, stream);
}
void PickNone(const PickArgs& args, void* stream) {
  rows_picked += args.count;
  simt::Start<PickArgs>([](PickArgs a) { a.ids[blockIdx.x] = -1; },
                        {.grid_x = static_cast<uint32_t>(args.count)}, stream, args);
}

std::unique_ptr<Backend> CudaWith(void (*pick)(const PickArgs&, void*)) {
  CudaKernels kernels = emulated::Kernels();
  kernels.pick = pick;
  auto backend = CudaBackend::Create(std::make_unique<DeviceOfKernels>(kernels), {.self_check = false});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

TEST(EnginePickTest, IdsAreTheHosts) {
  const std::unique_ptr<Backend> cpu = MakeBackend({"cpu", "auto", 2}).value();
  const std::vector<std::vector<int32_t>> expected = IdsOf(cpu.get(), /*on_host=*/true);
  ASSERT_EQ(expected.size(), 2u * kPlain);
  for (const std::vector<int32_t>& ids : expected) EXPECT_EQ(ids.size(), 10u);
  EXPECT_EQ(IdsOf(cpu.get(), false), expected);
  const std::unique_ptr<Backend> cuda = CudaWith(CountAndPick);
  EXPECT_EQ(IdsOf(cuda.get(), true), expected);
  EXPECT_EQ(rows_picked, 0);
  EXPECT_EQ(IdsOf(cuda.get(), false), expected);
  EXPECT_EQ(rows_picked, kPlain * 10);
}

TEST(EnginePickTest, WhereNoIdIsPickedTheHostLooksAtTheLogits) {
  const std::unique_ptr<Backend> cpu = MakeBackend({"cpu", "auto", 1}).value();
  rows_picked = 0;
  EXPECT_EQ(IdsOf(CudaWith(PickNone).get(), false), IdsOf(cpu.get(), true));
  EXPECT_EQ(rows_picked, kPlain * 10);
}

}  // namespace
}  // namespace moepool
