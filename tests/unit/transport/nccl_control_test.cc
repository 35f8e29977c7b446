// Ends of the NCCL transport whose peers say over the control stream what is malformed or out of place.
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

absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

FrameBytes Bytes(const std::vector<uint8_t>& bytes) { return CopyFrame(bytes); }

TEST(NcclControlTest, RefusesMalformedMessages) {
  const auto message = [](uint32_t says, uint32_t zero, size_t payload) {
    NcclMessageHeader header{static_cast<NcclSays>(says), zero, 1};
    std::vector<uint8_t> bytes(sizeof(header) + payload);
    std::memcpy(bytes.data(), &header, sizeof(header));
    return Bytes(bytes);
  };
  for (size_t size = 0; size < sizeof(NcclMessageHeader); ++size) {
    EXPECT_FALSE(DecodeNcclMessage(Bytes(std::vector<uint8_t>(size, 1))).ok()) << size;
  }
  EXPECT_FALSE(DecodeNcclMessage(message(0, 0, 0)).ok());
  EXPECT_FALSE(DecodeNcclMessage(message(8, 0, 0)).ok());
  EXPECT_FALSE(DecodeNcclMessage(message(2, 1, 0)).ok());
  EXPECT_FALSE(DecodeNcclMessage(message(1, 0, 127)).ok());
  EXPECT_FALSE(DecodeNcclMessage(message(3, 0, 0)).ok());
  EXPECT_FALSE(DecodeNcclMessage(message(5, 0, kMaxNcclHeadBytes + 1)).ok());
  EXPECT_FALSE(DecodeNcclMessage(message(6, 0, 8)).ok());
  EXPECT_TRUE(DecodeNcclMessage(message(1, 0, 128)).ok());
  EXPECT_TRUE(DecodeNcclMessage(message(3, 0, 9)).ok());
  EXPECT_TRUE(DecodeNcclMessage(message(4, 0, kMaxNcclHeadBytes)).ok());
  EXPECT_TRUE(DecodeNcclMessage(message(5, 0, 8)).ok());
  EXPECT_TRUE(DecodeNcclMessage(message(7, 0, 0)).ok());
}

// One end of a stream that a test speaks for.
class Speaker {
 public:
  explicit Speaker(std::unique_ptr<NcclControl> control) : control_(std::move(control)) {
    control_->Start({[this](FrameBytes bytes) {
                       MutexLock lock(&mutex_);
                       heard_.push_back(*DecodeNcclMessage(std::move(bytes)));
                       changed_.NotifyAll();
                     },
                     [this](const absl::Status&) {
                       MutexLock lock(&mutex_);
                       lost_ = true;
                       changed_.NotifyAll();
                     }});
  }
  void Says(NcclSays says, uint64_t value = 0, const FramePieces& payload = std::span<const uint8_t>()) {
    Say(control_.get(), says, value, payload).IgnoreError();
  }
  NcclMessage Hear(NcclSays says) {
    MutexLock lock(&mutex_);
    for (;;) {
      for (const NcclMessage& message : heard_) {
        if (message.says == says) return message;
      }
      if (lost_) {
        ADD_FAILURE() << "the stream ended before " << static_cast<int>(says);
        return {};
      }
      changed_.Wait(&mutex_);
    }
  }
  void AwaitEnd() {
    MutexLock lock(&mutex_);
    while (!lost_) changed_.Wait(&mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<NcclMessage> heard_ GUARDED_BY(mutex_);
  bool lost_ GUARDED_BY(mutex_) = false;
  const std::unique_ptr<NcclControl> control_;
};

struct Bad {
  NcclSays says;
  uint64_t value = 0;
  size_t payload = 0;
};

class NcclHostileTest : public testing::Test {
 protected:
  ~NcclHostileTest() override {
    router.queue = worker.queue = nullptr;
    EXPECT_THAT(world.Violations(), IsEmpty());
    world.AwaitNothingLeft();
  }

  NcclWorld world;
  NcclEnd router{&world};
  NcclEnd worker{&world};
  const std::function<absl::Status()> go_on = [] { return absl::OkStatus(); };
};

TEST_F(NcclHostileTest, ARouterLosesAWorkerThatSaysWhatIsOutOfPlace) {
  const TransportOptions options;
  for (const Bad& bad :
       {Bad{NcclSays::kId, 0, sizeof(NcclId)}, Bad{NcclSays::kReady, 4}, Bad{NcclSays::kTransfer, 5},
        Bad{NcclSays::kTake, 5}, Bad{NcclSays::kTaken}, Bad{NcclSays::kOffer, 0},
        Bad{NcclSays::kOffer, options.max_reply_frame_bytes + 1}, Bad{NcclSays::kFrame, 0, 30},
        Bad{NcclSays::kOffer, options.max_device_reply_bytes + 1, sizeof(FrameHeader)},
        Bad{NcclSays::kOffer, 5, sizeof(FrameHeader)}}) {
    SCOPED_TRACE(static_cast<int>(bad.says));
    ControlPair control = MakeControlPair();
    Speaker speaker(std::move(control.worker));
    std::unique_ptr<NcclPair> pair;
    std::thread joins([&] {
      NcclId id;
      std::memcpy(id.bytes, speaker.Hear(NcclSays::kId).payload.bytes.data(), sizeof(id.bytes));
      pair = *worker.queue->Connect(id, 1, Soon(), go_on);
      speaker.Says(NcclSays::kReady, 4);
    });
    auto transport = ConnectNcclTransport(router.queue, std::move(control.router), Soon(), options);
    joins.join();
    ASSERT_TRUE(transport.ok()) << transport.status();
    speaker.Says(bad.says, bad.value, std::vector<uint8_t>(bad.payload));
    speaker.AwaitEnd();
    EXPECT_TRUE((*transport)->Lost());
  }
}

TEST_F(NcclHostileTest, AWorkerIsNotReadyBeforeItIsThere) {
  ControlPair control = MakeControlPair();
  Speaker speaker(std::move(control.worker));
  speaker.Says(NcclSays::kOffer, 5);
  const auto transport = ConnectNcclTransport(router.queue, std::move(control.router), Soon());
  EXPECT_FALSE(transport.ok());
  EXPECT_THAT(std::string(transport.status().message()), HasSubstr("before there is a communicator"));
}

TEST_F(NcclHostileTest, AWorkerLeavesARouterThatSaysWhatIsOutOfPlace) {
  const TransportOptions options;
  for (const Bad& bad : {Bad{NcclSays::kId, 0, sizeof(NcclId)}, Bad{NcclSays::kTake, 5},
                         Bad{NcclSays::kOffer, 5}, Bad{NcclSays::kTaken}, Bad{NcclSays::kTransfer, 0},
                         Bad{NcclSays::kTransfer, options.max_dispatch_frame_bytes + 1},
                         Bad{NcclSays::kTransfer, options.max_dispatch_frame_bytes, 1},
                         Bad{NcclSays::kTransfer, ~uint64_t{0}, 1}}) {
    SCOPED_TRACE(static_cast<int>(bad.says));
    ControlPair control = MakeControlPair();
    Speaker speaker(std::move(control.router));
    NcclId id;
    ASSERT_EQ(router.queue->api().GetUniqueId(&id), NcclResult::kSuccess);
    std::unique_ptr<NcclPair> pair;
    std::thread joins([&] {
      speaker.Says(NcclSays::kId, 0,
                   std::span<const uint8_t>(reinterpret_cast<const uint8_t*>(id.bytes), sizeof(id.bytes)));
      pair = *router.queue->Connect(id, 0, Soon(), go_on);
      speaker.Hear(NcclSays::kReady);
      speaker.Says(NcclSays::kReady);
    });
    auto server = NcclServer::Connect(worker.queue, std::move(control.worker), Soon(), options);
    joins.join();
    ASSERT_TRUE(server.ok()) << server.status();
    speaker.Says(bad.says, bad.value, std::vector<uint8_t>(bad.payload));
    const absl::Status end = (*server)->Serve([](std::span<const uint8_t>, const FrameWriter&) {});
    EXPECT_FALSE(end.ok());
    EXPECT_FALSE((*server)->NcclFailed());
    EXPECT_THAT(std::string(end.message()), HasSubstr("out of place"));
  }
}

// More dispatches than it said that it takes ahead.
TEST_F(NcclHostileTest, AWorkersWindowHolds) {
  TransportOptions options;
  options.credits = 2;
  ControlPair control = MakeControlPair();
  Speaker speaker(std::move(control.router));
  NcclId id;
  ASSERT_EQ(router.queue->api().GetUniqueId(&id), NcclResult::kSuccess);
  std::unique_ptr<NcclPair> pair;
  std::thread joins([&] {
    speaker.Says(NcclSays::kId, 0,
                 std::span<const uint8_t>(reinterpret_cast<const uint8_t*>(id.bytes), sizeof(id.bytes)));
    pair = *router.queue->Connect(id, 0, Soon(), go_on);
    EXPECT_EQ(speaker.Hear(NcclSays::kReady).value, 2u);
    speaker.Says(NcclSays::kReady);
  });
  auto server = NcclServer::Connect(worker.queue, std::move(control.worker), Soon(), options);
  joins.join();
  ASSERT_TRUE(server.ok()) << server.status();
  for (int i = 0; i < 3; ++i) speaker.Says(NcclSays::kFrame, 0, std::vector<uint8_t>(200));
  speaker.AwaitEnd();
  const absl::Status end = (*server)->Serve([](std::span<const uint8_t>, const FrameWriter&) {});
  EXPECT_THAT(std::string(end.message()), HasSubstr("out of place"));
}

}  // namespace
}  // namespace moepool
