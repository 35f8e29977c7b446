// What only NCCL's transport can meet: peers that die at each of its calls, communicators that never come to
// be or break, groups, and ends that say what is out of place. The suite of all carriers is
// tests/contract/transport.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/transport/frame.h"
#include "gmock/gmock.h"
#include "tests/contract/transport/nccl_harness.h"
#include "tests/support/nccl/control_stand_in.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Frame = std::vector<uint8_t>;

constexpr NcclCall kCalls[] = {NcclCall::kGetUniqueId, NcclCall::kCommInit, NcclCall::kCommGetAsyncError,
                               NcclCall::kGroupStart,  NcclCall::kSend,     NcclCall::kRecv,
                               NcclCall::kGroupEnd};
constexpr int kRounds = 4;

// Far enough that only a hang reaches it.
absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

TransportOptions OverNccl() {
  TransportOptions options;
  options.inline_frame_bytes = 0;
  return options;
}

NcclQueueOptions Impatient() {
  NcclQueueOptions options;
  options.stall_limit = absl::Seconds(2);
  options.slowest_bytes_per_second = 1e9;
  return options;
}

Frame MakeFrame(uint64_t dispatch_id) {
  FrameHeader header;
  header.dispatch_id = dispatch_id;
  header.length = sizeof(header) + 1000 + dispatch_id;
  Frame frame(header.length);
  std::memcpy(frame.data(), &header, sizeof(header));
  for (size_t i = sizeof(header); i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(i * 7 + dispatch_id);
  return frame;
}

void Echo(std::span<const uint8_t> frame, const FrameWriter& write) { write(frame).IgnoreError(); }

// OK where the frame came back as it was.
absl::Status Round(ExpertTransport* transport, uint64_t id) {
  const Frame frame = MakeFrame(id);
  if (absl::Status status = transport->Send(id, frame, Soon()); !status.ok()) return status;
  const absl::StatusOr<FrameBytes> reply = transport->Receive(id, Soon());
  transport->Forget(id);
  if (!reply.ok()) return reply.status();
  return std::equal(frame.begin(), frame.end(), reply->bytes.begin(), reply->bytes.end())
             ? absl::OkStatus()
             : absl::DataLossError(absl::StrCat("frame ", id, " came back changed"));
}

// A router, a worker that something befalls, and one that nothing does. The parameter: the ends of frames are
// in device memory.
class NcclTest : public testing::TestWithParam<bool> {
 protected:
  explicit NcclTest(const NcclQueueOptions& options = {}) { Build(options); }
  ~NcclTest() override { EndWorld(); }

  void Build(NcclQueueOptions options) {
    options.keeps_on_device = GetParam();
    world = std::make_unique<NcclWorld>();
    router = std::make_unique<NcclEnd>(world.get(), options);
    first = std::make_unique<NcclEnd>(world.get(), options);
    second = std::make_unique<NcclEnd>(world.get(), options);
  }

  void EndWorld() {
    for (auto* end : {&router, &first, &second}) *end = nullptr;
    EXPECT_THAT(world->Violations(), IsEmpty());
    world->AwaitNothingLeft();
    world = nullptr;
  }

  NcclLink Link(const NcclEnd& worker) {
    return NcclLink(*router, worker, MakeControlPair(), Echo, OverNccl());
  }

  std::unique_ptr<NcclWorld> world;
  std::unique_ptr<NcclEnd> router;
  std::unique_ptr<NcclEnd> first;
  std::unique_ptr<NcclEnd> second;
};

INSTANTIATE_TEST_SUITE_P(Ends, NcclTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "OnDevice" : "OnHost"; });

enum class Death { kTold, kToldWithItsStream, kUntold };

struct Outcome {
  bool died = false;
  bool connected = false;
};

class NcclDeathTest : public NcclTest {
 protected:
  // The first worker dies at its `nth` call of this kind, while the router exchanges frames with both.
  Outcome AWorkerDies(NcclCall call, int nth, Death death) {
    Outcome outcome;
    {
      ControlPair control = MakeControlPair();
      NcclLink untouched = Link(*second);
      EXPECT_TRUE(untouched.connected()) << untouched.router_status() << untouched.worker_status();
      first->process->DieAt(call, nth, death != Death::kUntold,
                            death == Death::kToldWithItsStream ? control.cut
                            : death == Death::kUntold          ? control.silence_worker
                                                               : nullptr);
      NcclLink link(*router, *first, std::move(control), Echo, OverNccl(),
                    death == Death::kUntold ? absl::Seconds(2) : absl::Seconds(60));
      outcome.connected = link.connected();
      uint64_t id = 1;
      absl::Status end = link.router_status();
      for (int round = 0; outcome.connected && end.ok() && round < kRounds; ++round) {
        end = Round(&link.transport(), id);
        EXPECT_TRUE(Round(&untouched.transport(), id++).ok());
      }
      outcome.died = first->process->dead();
      EXPECT_EQ(end.ok(), !outcome.died) << end;
      if (outcome.died) {
        EXPECT_FALSE(absl::IsDataLoss(end)) << end;
        EXPECT_TRUE(!outcome.connected || link.transport().Lost());
      }
      // The other pair goes on, and the worker's successor gets a communicator of its own.
      for (int round = 0; round < 2; ++round) {
        const absl::Status status = Round(&untouched.transport(), id++);
        EXPECT_TRUE(status.ok()) << status;
      }
      const NcclEnd successor(world.get());
      NcclLink again = Link(successor);
      EXPECT_TRUE(again.connected()) << again.router_status() << again.worker_status();
      EXPECT_TRUE(again.connected() && Round(&again.transport(), 1).ok());
    }
    return outcome;
  }
};

INSTANTIATE_TEST_SUITE_P(Ends, NcclDeathTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "OnDevice" : "OnHost"; });

TEST_P(NcclDeathTest, AWorkerThatDiesAtAnyCallIsLostAloneAndReplaced) {
  for (const Death death : {Death::kTold, Death::kToldWithItsStream}) {
    for (const NcclCall call : kCalls) {
      for (int nth = 1; nth <= 12; ++nth) {
        SCOPED_TRACE(absl::StrCat("death ", static_cast<int>(death), ", call ", static_cast<int>(call),
                                  ", number ", nth));
        const Outcome outcome = AWorkerDies(call, nth, death);
        EndWorld();
        Build({});
        if (nth == 1) {
          EXPECT_EQ(outcome.died, call != NcclCall::kGetUniqueId) << "which is the router's call";
        }
        if (!outcome.died) break;
      }
    }
  }
}

TEST_P(NcclDeathTest, AWorkerWhoseMachineIsGoneIsLostWhenATransferStalls) {
  struct Case {
    NcclCall call;
    int nth;
    bool connected;
  };
  for (const Case& each : {Case{NcclCall::kCommInit, 1, false}, Case{NcclCall::kGroupEnd, 1, false},
                           Case{NcclCall::kRecv, 3, true}, Case{NcclCall::kSend, 3, true}}) {
    SCOPED_TRACE(absl::StrCat("call ", static_cast<int>(each.call), ", number ", each.nth));
    EndWorld();
    Build(Impatient());
    // Where it is computing that dies, there is no transfer to stall, and the dispatch's deadline decides;
    // here the router waits for its answer.
    const Outcome outcome = AWorkerDies(each.call, each.nth, Death::kUntold);
    EXPECT_TRUE(outcome.died);
    EXPECT_EQ(outcome.connected, each.connected);
  }
}

TEST_P(NcclTest, ARouterThatDiesAtAnyCallEndsItsWorkers) {
  for (const NcclCall call : kCalls) {
    for (int nth = 1; nth <= 12; ++nth) {
      SCOPED_TRACE(absl::StrCat("call ", static_cast<int>(call), ", number ", nth));
      bool died = false;
      {
        ControlPair control = MakeControlPair();
        router->process->DieAt(call, nth, /*told=*/true, control.cut);
        NcclLink link(*router, *first, std::move(control), Echo, OverNccl());
        if (link.connected()) {
          absl::Status end;
          for (uint64_t id = 1; end.ok() && id <= kRounds; ++id) end = Round(&link.transport(), id);
          died = router->process->dead();
          EXPECT_EQ(end.ok(), !died) << end;
        } else {
          died = router->process->dead();
          EXPECT_TRUE(died) << link.router_status() << link.worker_status();
        }
        EXPECT_TRUE(!link.connected() || !link.StopWorker().ok());
      }
      EndWorld();
      Build({});
      EXPECT_TRUE(died || nth > 1);
      if (!died) break;
    }
  }
}

TEST_P(NcclTest, ACommunicatorThatNeverComesToBeEndsBothAtTheirDeadline) {
  world->HoldJoins();
  const NcclLink link(*router, *first, MakeControlPair(), Echo, OverNccl(), absl::Milliseconds(50));
  EXPECT_FALSE(link.connected());
  EXPECT_FALSE(link.router_status().ok());
  EXPECT_FALSE(link.worker_status().ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(link.router_status()) ||
              absl::IsDeadlineExceeded(link.worker_status()))
      << link.router_status() << link.worker_status();
}

TEST_P(NcclTest, WhereTheLibraryRefusesBothEndsSaySo) {
  first->process->FailAt(NcclCall::kCommInit, 1, NcclResult::kInvalidUsage);  // two ranks on one GPU
  const NcclLink link = Link(*first);
  EXPECT_FALSE(link.connected());
  EXPECT_THAT(std::string(link.worker_status().message()), HasSubstr("ncclCommInitRankConfig"));
  EXPECT_THAT(std::string(link.router_status().message()), HasSubstr("ncclCommInitRankConfig"));
}

TEST_P(NcclTest, AnErrorOfTheNetworkIsLossOfThatPairAndTheWorkerKnowsThatItWasNccl) {
  NcclLink link = Link(*first);
  NcclLink untouched = Link(*second);
  ASSERT_TRUE(link.connected() && untouched.connected());
  ASSERT_TRUE(Round(&link.transport(), 1).ok());
  EXPECT_FALSE(link.server().NcclFailed());
  first->process->RaiseError(NcclResult::kSystemError);
  const absl::Status status = Round(&link.transport(), 2);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(link.transport().Lost());
  EXPECT_FALSE(link.StopWorker().ok());
  EXPECT_TRUE(link.server().NcclFailed());
  EXPECT_TRUE(Round(&untouched.transport(), 1).ok());
  EXPECT_FALSE(untouched.StopWorker().ok());
  EXPECT_FALSE(untouched.server().NcclFailed()) << "it was stopped";
}

TEST_P(NcclTest, ATransferOfAnotherSizeIsLoss) {
  EndWorld();
  Build(Impatient());
  NcclLink link = Link(*first);
  NcclLink untouched = Link(*second);
  ASSERT_TRUE(link.connected() && untouched.connected());
  first->process->CutSends();
  const absl::Status status = Round(&link.transport(), 1);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;  // of the end that is first to give up
  EXPECT_TRUE(Round(&untouched.transport(), 1).ok());
}

TEST_P(NcclTest, AnErrorInsideAGroupCostsNoMoreThanItsPairs) {
  NcclLink link = Link(*first);
  ASSERT_TRUE(link.connected());
  router->process->FailAt(NcclCall::kSend, 1, NcclResult::kUnhandledCudaError);
  EXPECT_TRUE(absl::IsUnavailable(Round(&link.transport(), 1)));
  NcclLink again = Link(*second);
  ASSERT_TRUE(again.connected());
  EXPECT_TRUE(Round(&again.transport(), 1).ok());
}

// A worker's end without a transport over it.
class RawPair {
 public:
  RawPair(const NcclEnd& router, const NcclEnd& worker) {
    NcclId id;
    EXPECT_EQ(router.queue->api().GetUniqueId(&id), NcclResult::kSuccess);
    const auto check = [] { return absl::OkStatus(); };
    std::thread joins([&] { workers_ = *worker.queue->Connect(id, 1, Soon(), check); });
    routers_ = *router.queue->Connect(id, 0, Soon(), check);
    joins.join();
    for (NcclPair* pair : {routers_.get(), workers_.get()}) pair->Start([](const absl::Status&) {});
  }
  NcclPair& router() { return *routers_; }
  NcclPair& worker() { return *workers_; }

 private:
  std::unique_ptr<NcclPair> routers_;
  std::unique_ptr<NcclPair> workers_;
};

TEST_P(NcclTest, TransfersThatGatherGoInOneGroup) {
  const NcclEnd third(world.get());
  RawPair pairs[] = {RawPair(*router, *first), RawPair(*router, *second), RawPair(*router, third)};
  const auto take = [](const NcclEnd& end) { return *end.queue->staging().Take(1000); };
  EXPECT_EQ(router->process->largest_group(), 1) << "greetings have groups to themselves";

  Mutex mutex;
  CondVar changed;
  bool held = false;
  bool gathered = false;
  int arrived = 0;
  const auto arrive = [&] {
    MutexLock lock(&mutex);
    ++arrived;
    changed.NotifyAll();
  };
  pairs[0].worker().Receive({take(*first), 1000}, arrive);
  pairs[0].router().Send({take(*router), 1000}, [&] {  // holds the router's queue
    MutexLock lock(&mutex);
    held = true;
    changed.NotifyAll();
    while (!gathered) changed.Wait(&mutex);
  });
  {
    MutexLock lock(&mutex);
    while (!held) changed.Wait(&mutex);
  }
  const NcclEnd* workers[] = {first.get(), second.get(), &third};
  for (size_t i = 0; i < 3; ++i) {
    pairs[i].worker().Receive({take(*workers[i]), 1000}, arrive);
    pairs[i].router().Send({take(*router), 1000}, nullptr);
  }
  MutexLock lock(&mutex);
  gathered = true;
  changed.NotifyAll();
  while (arrived < 4) changed.Wait(&mutex);
  EXPECT_EQ(router->process->largest_group(), 3);
}

// What the stand-in is to find does not go unnoticed.
TEST(NcclStandInTest, ACommunicatorThatIsBusyMayNotBeUsed) {
  NcclWorld world;
  const auto process = world.NewProcess();
  const auto api = process->MakeApi();
  const auto device = process->MakeDevice();
  const auto stream = device->NewStream();
  const NcclBuffer buffer = *device->Allocate(100, /*with_host=*/true);
  NcclId id;
  NcclComm* comm = nullptr;
  ASSERT_EQ(api->GetUniqueId(&id), NcclResult::kSuccess);
  ASSERT_EQ(api->CommInit(&comm, id, 0), NcclResult::kInProgress);
  ASSERT_EQ(api->GroupStart(), NcclResult::kSuccess);
  EXPECT_EQ(api->Send(buffer.device, 100, 1, comm, (*stream)->handle()), NcclResult::kInvalidArgument);
  EXPECT_EQ(api->GroupEnd(), NcclResult::kInvalidArgument);
  EXPECT_EQ(world.Violations().size(), 1u);
  EXPECT_EQ(world.Left(), 3);
  ASSERT_TRUE((*stream)->Copy(buffer.device, buffer.host, 100).ok());
  device->Free(buffer);
  EXPECT_EQ(world.Violations().size(), 3u) << "both were freed while a copy is to use them";
  EXPECT_EQ(api->CommAbort(comm), NcclResult::kSuccess);
}

TEST(NcclLibraryTest, ALibraryThatIsNotThereOrIsNotNcclIsNamed) {
  const absl::Status missing = OpenNccl("libnccl-that-is-not-here.so.2").status();
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr("libnccl-that-is-not-here.so.2"));
  const absl::Status other = OpenNccl("libc.so.6").status();
  EXPECT_TRUE(absl::IsNotFound(other)) << other;
  EXPECT_THAT(std::string(other.message()), HasSubstr("ncclGetVersion"));
  EXPECT_EQ(NcclVersionName(22809), "2.28.9");
}

TEST(NcclStagingTest, BlocksAreKeptForTheNextFrameUpToALimit) {
  NcclWorld world;
  const auto process = world.NewProcess();
  {
    NcclStaging staging(process->MakeDevice(), /*keep_bytes=*/1 << 20);
    { const auto small = *staging.Take(1); }
    EXPECT_EQ(world.Left(), 2);
    const auto again = *staging.Take(1000);
    EXPECT_EQ(world.Left(), 2) << "the same block, host's and device's";
    EXPECT_GE(again->bytes, 1000u);
    { const auto large = *staging.Take(3 << 20); }
    EXPECT_EQ(world.Left(), 2) << "more than is kept";
  }
  EXPECT_EQ(world.Left(), 0);
}

}  // namespace
}  // namespace moepool
