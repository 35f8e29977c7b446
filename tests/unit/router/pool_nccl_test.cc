// How router and worker come to NCCL, what they do without it, and after its loss.
#include <string>

#include "gmock/gmock.h"
#include "tests/unit/router/pool_testing.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PoolNcclTest : public testing::Test {
 protected:
  ~PoolNcclTest() override {
    routers_gpu.queue = workers_gpu.queue = nullptr;
    EXPECT_THAT(world.Violations(), IsEmpty());
    world.AwaitNothingLeft();
  }

  // Of the router's only member; empty where there are no routes.
  static std::string Transport(const Router& router) {
    const auto table = router.membership->Routes();
    return table == nullptr ? "" : std::string(table->members.at(0).transport->Name());
  }

  bool Computes(ExpertTransport* transport) const {
    const std::vector<uint8_t> frame = TestDispatch(model.limits, 41, {0, 3, 7}, /*layer=*/1).Encode();
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    const auto sent = transport->Send(7, frame, deadline);
    const auto reply = transport->Receive(7, deadline);
    transport->Forget(7);
    return sent.ok() && reply.ok() && DecodeReply(reply->bytes, model.limits).ok();
  }
  bool Computes(const Router& router) const {
    return Computes(router.membership->Routes()->members.at(0).transport.get());
  }

  WorkerFixture model;
  NcclWorld world;
  NcclEnd routers_gpu{&world};
  NcclEnd workers_gpu{&world};
};

TEST_F(PoolNcclTest, GoesBeforeGrpcWhereThereIsNoSharedMemory) {
  Router router(model, /*shared_memory=*/false, 0, 0, routers_gpu.queue);
  RunningWorker worker(model, router.address(), TransportChoice::kAuto, workers_gpu.queue);
  ASSERT_TRUE(Until([&] { return Transport(router) == "nccl"; })) << router.membership->WaitingFor();
  EXPECT_TRUE(Computes(router));
  EXPECT_TRUE(Until([&] { return worker.worker->status().transport == "nccl"; }));
}

TEST_F(PoolNcclTest, FallsBackToGrpcWhereEitherEndsLibraryFails) {
  for (const bool routers : {true, false}) {
    for (const NcclCall call : {NcclCall::kCommInit, NcclCall::kGroupEnd}) {
      (routers ? routers_gpu : workers_gpu).process->FailAt(call, 1, NcclResult::kSystemError);
      Router router(model, /*shared_memory=*/false, 0, 0, routers_gpu.queue);
      RunningWorker worker(model, router.address(), TransportChoice::kAuto, workers_gpu.queue);
      ASSERT_TRUE(Until([&] { return Transport(router) == "grpc"; })) << router.membership->WaitingFor();
      EXPECT_TRUE(Computes(router));
      EXPECT_EQ(router.membership->Counters().losses, 0u);
    }
  }
}

TEST_F(PoolNcclTest, IsNotUsedWhereOneEndHasNone) {
  for (const bool routers : {true, false}) {
    Router router(model, /*shared_memory=*/false, 0, 0, routers ? routers_gpu.queue : nullptr);
    RunningWorker worker(model, router.address(), TransportChoice::kAuto,
                         routers ? nullptr : workers_gpu.queue);
    ASSERT_TRUE(Until([&] { return Transport(router) == "grpc"; })) << router.membership->WaitingFor();
  }
}

TEST_F(PoolNcclTest, ByNameIsAnErrorWhereItCannotBeHad) {
  {
    Router router(model);
    RunningWorker worker(model, router.address(), TransportChoice::kNccl, workers_gpu.queue);
    const absl::Status end = worker.Join();
    EXPECT_EQ(end.code(), absl::StatusCode::kUnimplemented) << end;
    EXPECT_THAT(std::string(end.message()), HasSubstr("--transport nccl"));
    EXPECT_THAT(std::string(end.message()), HasSubstr("the router has no NCCL"));
  }
  {
    workers_gpu.process->FailAt(NcclCall::kCommInit, 1, NcclResult::kInvalidUsage);
    Router router(model, true, 0, 0, routers_gpu.queue);
    RunningWorker worker(model, router.address(), TransportChoice::kNccl, workers_gpu.queue);
    const absl::Status end = worker.Join();
    EXPECT_EQ(end.code(), absl::StatusCode::kUnimplemented) << end;
    EXPECT_THAT(std::string(end.message()), HasSubstr("ncclCommInitRankConfig"));
  }
}

TEST_F(PoolNcclTest, ALostCommunicatorIsBuiltAnewAndOneThatDoesNotLastLeavesItsPlaceToGrpc) {
  Router router(model, /*shared_memory=*/false, 0, 0, routers_gpu.queue);
  RunningWorker worker(model, router.address(), TransportChoice::kAuto, workers_gpu.queue,
                       /*nccl_attempts=*/2);
  for (uint64_t losses = 1; losses <= 2; ++losses) {
    ASSERT_TRUE(Until([&] { return Transport(router) == "nccl"; })) << router.membership->WaitingFor();
    EXPECT_TRUE(Computes(router));
    EXPECT_EQ(workers_gpu.process->calls(NcclCall::kCommInit), static_cast<int>(losses));
    const auto table = router.membership->Routes();
    ExpertTransport& transport = *table->members.at(0).transport;
    workers_gpu.process->RaiseError(NcclResult::kRemoteError);
    EXPECT_FALSE(Computes(&transport)) << "a transfer finds it";
    EXPECT_TRUE(transport.Lost());
    ASSERT_TRUE(Until([&] { return router.membership->Counters().losses == losses; }));
  }
  ASSERT_TRUE(Until([&] { return Transport(router) == "grpc"; })) << router.membership->WaitingFor();
  EXPECT_TRUE(Computes(router));
}

}  // namespace
}  // namespace moepool
