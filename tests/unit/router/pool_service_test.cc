// Router and worker over real connections, in one process: joining, transports, refusals, draining, restarts.
#include "router/pool_service.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_server.h"
#include "common/transport/grpc_transport.h"
#include "common/transport/pool_protocol.h"
#include "common/transport/reply_inbox.h"
#include "expert_worker/worker.h"
#include "gmock/gmock.h"
#include "proto/experts.grpc.pb.h"
#include "tests/unit/router/pool_testing.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

TEST(PoolServiceTest, AWorkersGpuComesWithItsHeartbeats) {
  WorkerFixture model;
  Router router(model);
  std::atomic<uint64_t> used = 20;
  std::atomic<bool> known = true;
  const auto read_gpu = [&]() -> std::optional<GpuReading> {
    if (!known) return std::nullopt;
    GpuReading gpu;
    gpu.name = "card";
    gpu.memory_used_bytes = used.load();
    return gpu;
  };
  RunningWorker worker(model, router.address(), TransportChoice::kAuto, nullptr, 3, read_gpu);
  const auto shown = [&]() -> uint64_t {
    const auto workers = router.membership->Workers();
    return workers.empty() || !workers[0].gpu.has_value() ? 0 : workers[0].gpu->memory_used_bytes.value_or(0);
  };
  EXPECT_TRUE(Until([&] { return shown() == 20; }));
  used = 21;
  EXPECT_TRUE(Until([&] { return shown() == 21; }));
  known = false;
  EXPECT_TRUE(Until([&] { return shown() == 0; }));
}

TEST(PoolServiceTest, AWorkerJoinsLoadsAndComputesOverEachTransport) {
  for (const TransportChoice choice : {TransportChoice::kAuto, TransportChoice::kSharedMemory,
                                       TransportChoice::kNccl, TransportChoice::kGrpc}) {
    WorkerFixture model;
    NcclWorld world;
    const NcclEnd routers_gpu(&world);
    const NcclEnd workers_gpu(&world);
    Router router(model, true, 0, 0, routers_gpu.queue);
    RunningWorker worker(model, router.address(), choice, workers_gpu.queue);
    ASSERT_TRUE(Until([&] { return router.membership->Routes() != nullptr; }))
        << router.membership->WaitingFor();
    const auto table = router.membership->Routes();
    ExpertTransport& transport = *table->members.at(0).transport;
    EXPECT_EQ(transport.Name(), choice == TransportChoice::kGrpc   ? "grpc"
                                : choice == TransportChoice::kNccl ? "nccl"
                                                                   : "shm");

    TestDispatch dispatch(model.limits, 41, {0, 3, 7}, /*layer=*/1);
    const std::vector<uint8_t> frame = dispatch.Encode();
    std::vector<uint8_t> expected;
    worker.executor.Handle(frame, [&](const FramePieces& reply) {
      const FrameBytes whole = CopyFrame(reply);
      expected.assign(whole.bytes.begin(), whole.bytes.end());
      return absl::OkStatus();
    });
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    ASSERT_TRUE(transport.Send(7, frame, deadline).ok());
    const auto reply = transport.Receive(7, deadline);
    ASSERT_TRUE(reply.ok()) << reply.status();
    std::vector<uint8_t> received(reply->bytes.begin(), reply->bytes.end());
    for (std::vector<uint8_t>* answer : {&expected, &received}) {
      ASSERT_GE(answer->size(), sizeof(FrameHeader));
      // The time it took, which differs.
      std::memset(answer->data() + offsetof(FrameHeader, budget_us), 0, sizeof(FrameHeader::budget_us));
    }
    EXPECT_EQ(received, expected);
    EXPECT_TRUE(Until([&] { return worker.ready >= 1; }));
    EXPECT_TRUE(
        Until([&] { return router.membership->Workers().at(0).expert_bytes == worker.store.bytes(); }));
  }
}

TEST(PoolServiceTest, AnotherModelEndsTheWorkerWithBothDigests) {
  WorkerFixture model;
  Router router(model, true, 0, /*digest_flip=*/0xFF);
  RunningWorker worker(model, router.address(), TransportChoice::kAuto);
  const absl::Status end = worker.Join();
  EXPECT_EQ(end.code(), absl::StatusCode::kFailedPrecondition) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("digest"));
  EXPECT_TRUE(router.membership->Workers().empty());
}

TEST(PoolServiceTest, ForcedSharedMemoryThatCannotBeHadIsAnError) {
  WorkerFixture model;
  Router router(model, /*shared_memory=*/false);
  RunningWorker worker(model, router.address(), TransportChoice::kSharedMemory);
  const absl::Status end = worker.Join();
  EXPECT_EQ(end.code(), absl::StatusCode::kUnimplemented) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("--transport shm"));
}

TEST(PoolServiceTest, ADrainedWorkerHandsOverAndEnds) {
  WorkerFixture model;
  Router router(model);
  RunningWorker a(model, router.address(), TransportChoice::kAuto);
  ASSERT_TRUE(Until([&] { return router.membership->Routes() != nullptr; }));
  WorkerFixture other;  // devices take one caller at a time
  RunningWorker b(other, router.address(), TransportChoice::kGrpc);
  ASSERT_TRUE(Until([&] {
    const auto table = router.membership->Routes();
    return table != nullptr && table->members.size() == 2;
  }));
  a.worker->Drain();
  EXPECT_TRUE(a.Join().ok());
  ASSERT_NE(router.membership->Routes(), nullptr);
  EXPECT_EQ(router.membership->Routes()->members.size(), 1u);
  EXPECT_EQ(router.membership->Counters().losses, 0u);
  b.worker->Drain();  // nobody can take over: at once
  EXPECT_TRUE(b.Join().ok());
}

TEST(PoolServiceTest, AWorkerComesBackToARouterThatRestartsAndKeepsItsExperts) {
  WorkerFixture model;
  auto router = std::make_unique<Router>(model);
  const uint16_t port = router->server->address().port;
  RunningWorker worker(model, router->address(), TransportChoice::kAuto);
  ASSERT_TRUE(Until([&] { return router->membership->Routes() != nullptr; }));
  const auto held = worker.store.Layer(0);
  router = nullptr;
  router = std::make_unique<Router>(model, true, port);
  ASSERT_TRUE(Until([&] { return router->membership->Routes() != nullptr; }));
  EXPECT_EQ(worker.store.Layer(0)->experts, held->experts) << "loaded again";
}

TEST(PoolServiceTest, StreamsThatBreakTheProtocolAreRefusedAndALostOneIsALoss) {
  WorkerFixture model;
  Router router(model);
  const auto stub = experts::v1::ExpertPool::NewStub(MakeRpcChannel(router.address()));
  {
    grpc::ClientContext context;
    auto stream = stub->Join(&context);
    experts::v1::WorkerMessage message;
    message.mutable_loaded()->set_epoch(1);
    stream->Write(message);
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  {
    const auto refused = GrpcExchangeClient::Connect(MakeRpcChannel(router.address()), "guessed",
                                                     absl::Now() + absl::Seconds(60));
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kPermissionDenied) << refused.status();
  }
  {
    grpc::ClientContext context;
    auto stream = stub->Join(&context);
    experts::v1::WorkerMessage message;
    experts::v1::Hello* hello = message.mutable_hello();
    hello->set_protocol_version(kPoolProtocolVersion);
    const ModelDigest digest = *model.source->Digest();
    hello->set_model_digest(digest.data(), digest.size());
    hello->set_name("raw");
    hello->set_accepts_grpc(true);
    hello->set_host_id("another host");
    stream->Write(message);
    experts::v1::RouterMessage reply;
    ASSERT_TRUE(stream->Read(&reply));
    EXPECT_EQ(reply.welcome().session().size(), 32u);
    EXPECT_EQ(reply.welcome().shared_memory_socket(), "") << "not on this host";
    ASSERT_TRUE(stream->Read(&reply));
    EXPECT_EQ(reply.assign().layers_size(), model.limits.layers);
    EXPECT_EQ(router.membership->Workers().size(), 1u);
    context.TryCancel();
    stream->Finish();
    EXPECT_TRUE(Until([&] { return router.membership->Workers().empty(); }));
    EXPECT_EQ(router.membership->Counters().losses, 1u);
  }
}

// A router whose socket cannot be reached from where the worker runs.
class UnreachableSocketRouter final : public experts::v1::ExpertPool::Service {
 public:
  grpc::Status Join(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<experts::v1::RouterMessage, experts::v1::WorkerMessage>* stream) override {
    experts::v1::WorkerMessage message;
    stream->Read(&message);
    EXPECT_TRUE(message.hello().accepts_shared_memory());
    experts::v1::RouterMessage welcome;
    welcome.mutable_welcome()->set_session("s");
    welcome.mutable_welcome()->set_heartbeat_ms(50);
    welcome.mutable_welcome()->set_shared_memory_socket("moepool-nobody-listens-here");
    stream->Write(welcome);
    while (stream->Read(&message)) {
      if (message.has_transport_failed()) failed = true;
    }
    return grpc::Status::OK;
  }
  grpc::Status Exchange(grpc::ServerContext* context,
                        grpc::ServerReaderWriter<experts::v1::Frame, experts::v1::Frame>* stream) override {
    EXPECT_EQ(context->client_metadata().count(kWorkerMetadata), 1u);
    context->AddInitialMetadata(kAcceptedMetadata, "1");
    stream->SendInitialMetadata();
    exchanged = true;
    experts::v1::Frame frame;
    stream->Read(&frame);
    return grpc::Status::OK;
  }
  std::atomic<bool> failed = false;
  std::atomic<bool> exchanged = false;
};

TEST(PoolServiceTest, SharedMemoryThatCannotBeReachedFallsBackToGrpc) {
  WorkerFixture model;
  UnreachableSocketRouter service;
  const std::unique_ptr<RpcServer> server = StartServer(0, &service);
  RunningWorker worker(model, server->address().ToString(), TransportChoice::kAuto);
  EXPECT_TRUE(Until([&] { return service.exchanged.load() && service.failed.load(); }));
  EXPECT_TRUE(Until([&] { return worker.worker->status().transport == "grpc"; }));
  server->Shutdown(absl::Now());
}

// A router that takes one worker by gRPC and says what a test wants it to.
class ScriptedRouter final : public experts::v1::ExpertPool::Service {
 public:
  grpc::Status Join(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<experts::v1::RouterMessage, experts::v1::WorkerMessage>* stream) override {
    experts::v1::WorkerMessage message;
    stream->Read(&message);
    experts::v1::RouterMessage welcome;
    welcome.mutable_welcome()->set_session("s");
    welcome.mutable_welcome()->set_heartbeat_ms(50);
    stream->Write(welcome);
    {
      MutexLock lock(&mutex_);
      stream_ = stream;
    }
    while (stream->Read(&message)) {
      if (message.has_loaded()) loaded = message.loaded().epoch();
    }
    MutexLock lock(&mutex_);
    stream_ = nullptr;
    return grpc::Status::OK;
  }
  grpc::Status Exchange(grpc::ServerContext* context,
                        grpc::ServerReaderWriter<experts::v1::Frame, experts::v1::Frame>* stream) override {
    context->AddInitialMetadata(kAcceptedMetadata, "1");
    stream->SendInitialMetadata();
    experts::v1::Frame frame;
    stream->Read(&frame);
    return grpc::Status::OK;
  }
  // False where no worker has joined.
  bool Say(const experts::v1::RouterMessage& message) {
    MutexLock lock(&mutex_);
    return stream_ != nullptr && stream_->Write(message);
  }
  std::atomic<uint64_t> loaded = 0;  // epoch

 private:
  Mutex mutex_;
  grpc::ServerReaderWriter<experts::v1::RouterMessage, experts::v1::WorkerMessage>* stream_
      GUARDED_BY(mutex_) = nullptr;
};

// Not when it has a transport and nothing to hold, nor while others still load their shares.
TEST(PoolServiceTest, AWorkerIsReadyWhenItsPlacementIsInForce) {
  for (const bool holds : {true, false}) {
    SCOPED_TRACE(holds);
    WorkerFixture model;
    ScriptedRouter router;
    const std::unique_ptr<RpcServer> server = StartServer(0, &router);
    RunningWorker worker(model, server->address().ToString(), TransportChoice::kGrpc);
    ASSERT_TRUE(Until([&] { return worker.worker->status().transport == "grpc"; }));
    EXPECT_FALSE(worker.worker->status().ready);

    experts::v1::RouterMessage assign;
    assign.mutable_assign()->set_epoch(1);
    if (holds) assign.mutable_assign()->add_layers()->add_experts(3);
    ASSERT_TRUE(router.Say(assign));
    ASSERT_TRUE(Until([&] { return router.loaded == 1; }));
    EXPECT_FALSE(worker.worker->status().ready);
    EXPECT_EQ(worker.ready, 0);

    experts::v1::RouterMessage release;
    release.mutable_release()->set_epoch(1);
    ASSERT_TRUE(router.Say(release));
    EXPECT_TRUE(Until([&] { return worker.ready == 1; }));
    EXPECT_TRUE(worker.worker->status().ready);
    EXPECT_EQ(worker.store.Held().size(), holds ? 1u : 0u);

    // The placement before it stays in force while the next one is loaded, and so does the worker.
    assign.mutable_assign()->set_epoch(2);
    ASSERT_TRUE(router.Say(assign));
    ASSERT_TRUE(Until([&] { return router.loaded == 2; }));
    EXPECT_TRUE(worker.worker->status().ready);
    EXPECT_EQ(worker.ready, 1);
    server->Shutdown(absl::Now());
  }
}

}  // namespace
}  // namespace moepool
