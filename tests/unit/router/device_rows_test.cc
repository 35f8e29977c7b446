// Engines whose rows go to workers from device memory, and whose parts come back there: the tokens and logits
// are those of a pool in this process, whatever workers there are besides and whoever dies on the way. The
// memory of the emulated device and of the stand-in for NCCL is the host's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <thread>

#include "common/backend/cuda/cuda_backend.h"
#include "common/base/mutex.h"
#include "common/model/synthetic.h"
#include "common/transport/in_process.h"
#include "common/transport/nccl_transport.h"
#include "router/engine.h"
#include "router/local_pool.h"
#include "tests/contract/transport/nccl_harness.h"
#include "tests/support/run_sequence.h"
#include "tests/support/simt/emulated_device.h"

namespace moepool {
namespace {

SynthSpec Spec(DType dtype) {
  SynthSpec spec;
  spec.family = "qwen2moe";
  spec.layers = 2;
  spec.experts = 12;
  spec.experts_per_token = 4;
  spec.ffn = 32;
  spec.shared_ffn = 64;
  spec.vocab = 300;
  spec.dtype = dtype;
  return spec;
}

constexpr int kPrompt = 20;
constexpr int kAnswer = 3;
constexpr uint64_t kSteps = 3 + kAnswer - 1;  // of 8 rows at most

SequenceRequest Request() {
  SequenceRequest request;
  request.request_id = "r";
  for (int i = 0; i < kPrompt; ++i) request.prompt.push_back(20 + i * 37 % 200);
  request.max_tokens = kAnswer;
  return request;
}

struct Cuda {
  Cuda() {
    auto made = std::make_unique<EmulatedDevice>();
    device = made.get();
    backend = CudaBackend::Create(std::move(made), {.self_check = false}).value();
  }
  EmulatedDevice* device = nullptr;
  std::unique_ptr<Backend> backend;
};

// A worker with all experts.
struct Holder {
  Holder(const ModelSource& source, Backend* backend) : store(&source, backend, 0) {
    const ModelConfig& config = source.Config();
    for (int i = 0; i < config.layers * config.experts; ++i) {
      EXPECT_TRUE(store.Load(i / config.experts, i % config.experts).ok());
    }
    FrameLimits limits = {config.hidden, config.layers, config.experts, 0};
    const ModelDigest digest = source.Digest().value();
    std::memcpy(&limits.model_digest, digest.data(), sizeof(limits.model_digest));
    executor = std::make_unique<Executor>(backend, &store, limits);
  }
  ExpertStore store;
  std::unique_ptr<Executor> executor;
};

struct PoolSetup {
  bool trunk_keeps = true;  // its queue keeps the ends of frames on the device
  bool worker_keeps = true;
  bool beside_cpu = false;  // a CPU worker has every other expert
  size_t inline_frame_bytes = 0;
};

// A GPU's worker over NCCL, and one of this process on the CPU, to which all goes once the other is lost.
class NcclPool final : public ExpertPool {
 public:
  NcclPool(const std::shared_ptr<const ModelSource>& source, const PoolSetup& setup)
      : router(&world, {.keeps_on_device = setup.trunk_keeps}),
        worker(&world, {.keeps_on_device = setup.worker_keeps}),
        cpu_backend_(MakeBackend({"cpu", "scalar", 1}).value()),
        on_gpu_(*source, gpu.backend.get()),
        on_cpu_(*source, cpu_backend_.get()) {
    TransportOptions options;
    options.inline_frame_bytes = setup.inline_frame_bytes;
    ControlPair control = MakeControlPair();
    std::thread connect(
        [&] { server_ = *NcclServer::Connect(worker.queue, std::move(control.worker), Soon(), options); });
    std::shared_ptr<ExpertTransport> nccl =
        *ConnectNcclTransport(router.queue, std::move(control.router), Soon(), options);
    connect.join();
    serve_ = std::thread([this] {
      server_
          ->Serve([this](const FrameBytes& frame, DeviceWriter* writer) {
            on_gpu_.executor->Handle(frame, writer);
          })
          .IgnoreError();
    });
    Executor* const cpu = on_cpu_.executor.get();
    const std::shared_ptr<ExpertTransport> in_process = MakeInProcessTransport(
        [cpu](std::span<const uint8_t> frame, const FrameWriter& write) { cpu->Handle(frame, write); }, {});
    const ModelConfig& config = source->Config();
    auto routes = std::make_shared<RoutingTable>();
    routes->epoch = 1;
    routes->members = {{WorkerId(1), nccl}, {WorkerId(2), in_process}};
    for (int i = 0; i < config.layers * config.experts; ++i) {
      routes->member.push_back(setup.beside_cpu ? i % 2 : 0);
    }
    auto after = std::make_shared<RoutingTable>(*routes);
    after->epoch = 2;
    after->members[0].transport = in_process;
    routes_ = std::move(routes);
    after_loss_ = std::move(after);
    for (const NcclEnd* end : {&router, &worker}) copied_.push_back(end->process->copied_bytes());
    gpu_copied_ = gpu.device->copied_bytes();
  }
  ~NcclPool() override {
    server_->Stop();
    serve_.join();
    server_ = nullptr;
    routes_ = after_loss_ = nullptr;
    router.queue = worker.queue = nullptr;
    EXPECT_THAT(world.Violations(), testing::IsEmpty());
    world.AwaitNothingLeft();
  }
  std::shared_ptr<const RoutingTable> Routes() override {
    MutexLock lock(&mutex_);
    return lost > 0 ? after_loss_ : routes_;
  }
  std::string WaitingFor() override { return ""; }
  void ReportLoss(WorkerId id, const absl::Status&) override {
    EXPECT_EQ(id.value(), 1u);
    MutexLock lock(&mutex_);
    ++lost;
  }
  void ReportExchanges(std::span<const ExchangeReport>) override {}
  std::vector<PoolWorkerInfo> Workers() override { return {}; }

  // By NCCL's streams between page-locked and device memory, since the beginning.
  uint64_t nccl_copied() const {
    return router.process->copied_bytes() - copied_[0] + worker.process->copied_bytes() - copied_[1];
  }
  uint64_t gpu_copied() const { return gpu.device->copied_bytes() - gpu_copied_; }

  NcclWorld world;
  NcclEnd router;
  NcclEnd worker;
  Cuda gpu;  // the worker's
  int lost = 0;

 private:
  static absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

  const std::unique_ptr<Backend> cpu_backend_;
  Holder on_gpu_;
  Holder on_cpu_;
  std::shared_ptr<NcclServer> server_;
  std::thread serve_;
  Mutex mutex_;
  std::shared_ptr<const RoutingTable> routes_;
  std::shared_ptr<const RoutingTable> after_loss_;
  std::vector<uint64_t> copied_;
  uint64_t gpu_copied_ = 0;
};

struct Outcome {
  std::vector<int32_t> ids;
  std::map<int, std::vector<float>> logits;  // by position
  EngineStats stats;
  uint64_t waits = 0;  // for the trunk's device
};

Outcome RunOn(Backend* trunk, const std::shared_ptr<const ModelSource>& source, ExpertPool* pool,
              const EmulatedDevice* device = nullptr) {
  Outcome outcome;
  EngineOptions options;
  options.kv_bytes = 1 << 20;
  options.prefix_cache = false;
  options.limits.token_budget = 8;
  options.on_logits = [&](const std::string&, int position, std::span<const float> logits) {
    outcome.logits[position] = {logits.begin(), logits.end()};
  };
  const std::unique_ptr<Engine> engine = Engine::Create(trunk, source, pool, std::move(options)).value();
  const uint64_t before = device != nullptr ? device->synchronizations() : 0;
  const SequenceResult result = RunSequence(engine.get(), Request());
  EXPECT_TRUE(result.status.ok()) << result.status;
  EXPECT_TRUE(engine->WaitIdle(absl::Minutes(1)));
  outcome.ids = result.ids;
  outcome.waits = device != nullptr ? device->synchronizations() - before : 0;
  outcome.stats = engine->Stats();
  return outcome;
}

class DeviceRowsTest : public testing::TestWithParam<DType> {
 protected:
  DeviceRowsTest() : source_(MakeSyntheticSource(Spec(GetParam())).value()) {
    const std::unique_ptr<Backend> cpu = MakeBackend({"cpu", "scalar", 1}).value();
    const std::unique_ptr<LocalPool> pool = LocalPool::Create(source_, cpu.get(), 2).value();
    expected_ = RunOn(cpu.get(), source_, pool.get());
    EXPECT_EQ(expected_.logits.size(), static_cast<size_t>(kAnswer));
  }
  void ExpectTheSame(const Outcome& outcome) const {
    EXPECT_EQ(outcome.ids, expected_.ids);
    EXPECT_TRUE(outcome.logits == expected_.logits);
  }

  const std::shared_ptr<const ModelSource> source_;
  Outcome expected_;
};
INSTANTIATE_TEST_SUITE_P(Wires, DeviceRowsTest, testing::Values(DType::kQ8_0, DType::kF16),
                         [](const auto& info) { return info.param == DType::kF16 ? "f32" : "int8"; });

TEST_P(DeviceRowsTest, RowsAndPartsNeverComeToTheHost) {
  NcclPool pool(source_, {});
  Cuda trunk;
  const Outcome outcome = RunOn(trunk.backend.get(), source_, &pool, trunk.device);
  ExpectTheSame(outcome);
  const uint64_t exchanges = kSteps * 2;
  EXPECT_EQ(outcome.stats.dispatch.dispatches, exchanges);
  EXPECT_EQ(outcome.stats.dispatch.packed, exchanges);
  EXPECT_EQ(pool.nccl_copied(), 0u);
  // A worker's GPU gets what is to be computed, and gives no more than faults, which its kernels write.
  const uint64_t rows = uint64_t{kPrompt + kAnswer - 1} * 2;
  EXPECT_GT(pool.gpu_copied(), 0u);
  EXPECT_LT(pool.gpu_copied(), exchanges * 4096);
  EXPECT_EQ(outcome.stats.dispatch.rows, rows);
  // Of a layer the gate's choice and the packing, of a step its faults, and the logits.
  EXPECT_EQ(outcome.waits, exchanges * 2 + kSteps + kAnswer);
}

TEST_P(DeviceRowsTest, AnyMixtureOfWorkersAndEndsGivesTheSameBits) {
  for (const PoolSetup& setup :
       {PoolSetup{.beside_cpu = true}, PoolSetup{.trunk_keeps = false}, PoolSetup{.worker_keeps = false},
        PoolSetup{.trunk_keeps = false, .worker_keeps = false, .beside_cpu = true},
        PoolSetup{.inline_frame_bytes = 700}, PoolSetup{.beside_cpu = true, .inline_frame_bytes = 16384}}) {
    SCOPED_TRACE(testing::Message() << setup.trunk_keeps << setup.worker_keeps << setup.beside_cpu
                                    << setup.inline_frame_bytes);
    NcclPool pool(source_, setup);
    Cuda trunk;
    const Outcome outcome = RunOn(trunk.backend.get(), source_, &pool);
    ExpectTheSame(outcome);
    EXPECT_EQ(pool.lost, 0);
    const uint64_t packed = outcome.stats.dispatch.packed;
    EXPECT_EQ(packed > 0, setup.trunk_keeps && setup.inline_frame_bytes < 16384);
    EXPECT_EQ(packed == outcome.stats.dispatch.dispatches,
              setup.trunk_keeps && !setup.beside_cpu && setup.inline_frame_bytes == 0);
  }
}

TEST_P(DeviceRowsTest, AWorkerThatDiesCostsNoToken) {
  for (const NcclCall call : {NcclCall::kSend, NcclCall::kRecv, NcclCall::kGroupEnd}) {
    for (const int nth : {1, 2, 5}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(call) << ", number " << nth);
      NcclPool pool(source_, {.beside_cpu = true});
      pool.worker.process->DieAt(call, nth, /*told=*/true);
      Cuda trunk;
      ExpectTheSame(RunOn(trunk.backend.get(), source_, &pool));
      EXPECT_EQ(pool.lost, 1);
    }
  }
}

}  // namespace
}  // namespace moepool
