// Frames whose ends go over NCCL from device memory to device memory. The stand-in's is the host's, so that
// tests can look into it.
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "common/transport/frame.h"
#include "common/transport/nccl_transport.h"
#include "gmock/gmock.h"
#include "tests/contract/transport/nccl_harness.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Bytes = std::vector<uint8_t>;

constexpr uint8_t kUntouched = 0xDB;  // what the stand-in's memory holds at first
constexpr size_t kEnd = 100'001;
constexpr NcclQueueOptions kKeeps = {.keeps_on_device = true};

absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

Bytes Copy(std::span<const uint8_t> bytes) { return {bytes.begin(), bytes.end()}; }

Bytes Head(uint64_t dispatch_id, size_t end, FrameKind kind = FrameKind::kDispatch) {
  FrameHeader header;
  header.kind = kind;
  header.dispatch_id = dispatch_id;
  header.length = sizeof(header) + end;
  Bytes head(sizeof(header));
  std::memcpy(head.data(), &header, sizeof(header));
  return head;
}

Bytes End(size_t bytes) {
  Bytes end(bytes);
  for (size_t i = 0; i < bytes; ++i) end[i] = static_cast<uint8_t>(i * 31 + i / 251);
  return end;
}

// Both ends as they are.
struct Ends {
  Ends(const NcclEnd& router, const NcclEnd& worker, const TransportOptions& options,
       const DeviceFrameHandler& handler) {
    ControlPair control = MakeControlPair();
    std::thread connect(
        [&] { server = *NcclServer::Connect(worker.queue, std::move(control.worker), Soon(), options); });
    transport = *ConnectNcclTransport(router.queue, std::move(control.router), Soon(), options);
    connect.join();
    serve = std::thread([this, handler] { server->Serve(handler).IgnoreError(); });
  }
  ~Ends() {
    server->Stop();
    serve.join();
  }
  absl::Status SendEnd(uint64_t id, const Bytes& end) const {
    DeviceSender& sender = *transport->device_sender();
    const Bytes head = Head(id, end.size());
    absl::StatusOr<DeviceBytes> rows = sender.TakeDevice(head.size(), end.size());
    if (!rows.ok()) return rows.status();
    std::copy(end.begin(), end.end(), rows->data);
    return sender.SendRows(id, head, *std::move(rows), Soon());
  }

  std::shared_ptr<NcclServer> server;
  std::shared_ptr<ExpertTransport> transport;
  std::thread serve;
};

class NcclDeviceTest : public testing::Test {
 protected:
  void TearDown() override {
    EXPECT_THAT(world.Violations(), IsEmpty());
    world.AwaitNothingLeft();
  }
  NcclWorld world;
  TransportOptions options;
};

// Answers with the end that came, from where it can.
void Answer(const FrameBytes& frame, DeviceWriter* writer) {
  const FrameBytes whole = CopyFrame({frame.bytes, frame.device});
  const std::span<const uint8_t> end = whole.bytes.subspan(sizeof(FrameHeader));
  const uint64_t id = DecodeHeader(whole.bytes)->dispatch_id;
  const Bytes head = Head(id, end.size(), FrameKind::kReply);
  absl::StatusOr<DeviceBytes> parts = writer->TakeDevice(head.size(), end.size());
  if (!parts.ok()) {
    writer->Write(FramePieces(head, end)).IgnoreError();
    return;
  }
  std::copy(end.begin(), end.end(), parts->data);
  writer->WriteParts(head, *std::move(parts)).IgnoreError();
}

TEST_F(NcclDeviceTest, EndsStayOnTheDeviceAllTheWay) {
  NcclEnd router(&world, kKeeps);
  NcclEnd worker(&world, kKeeps);
  const Bytes end = End(kEnd);
  Ends ends(router, worker, options, [&](const FrameBytes& frame, DeviceWriter* writer) {
    EXPECT_EQ(Copy(frame.bytes), Head(7, kEnd));
    EXPECT_EQ(Copy(frame.device), end);
    EXPECT_EQ(frame.device.data()[kEnd], kUntouched);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(frame.device.data()) % 256, 0u);
    Answer(frame, writer);
  });
  const uint64_t copied[] = {router.process->copied_bytes(), worker.process->copied_bytes()};
  ASSERT_EQ(ends.SendEnd(7, end), absl::OkStatus());
  const absl::StatusOr<FrameBytes> reply = ends.transport->Receive(7, Soon());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(Copy(reply->bytes), Head(7, kEnd, FrameKind::kReply));
  EXPECT_EQ(Copy(reply->device), end);
  EXPECT_EQ(reply->device.data()[kEnd], kUntouched);
  EXPECT_EQ(router.process->copied_bytes(), copied[0]);
  EXPECT_EQ(worker.process->copied_bytes(), copied[1]);
}

TEST_F(NcclDeviceTest, AnEndThatKeepsNothingThereGetsTheWholeFrameInTheHostsMemory) {
  const Bytes end = End(kEnd);
  for (const bool routers : {true, false}) {
    NcclEnd router(&world, {.keeps_on_device = routers});
    NcclEnd worker(&world, {.keeps_on_device = !routers});
    Ends ends(router, worker, options, [&](const FrameBytes& frame, DeviceWriter* writer) {
      EXPECT_EQ(frame.size(), sizeof(FrameHeader) + kEnd);
      EXPECT_TRUE(frame.device.empty());
      Answer(frame, writer);
    });
    EXPECT_EQ(ends.transport->device_sender() != nullptr, routers);
    if (routers) {
      ASSERT_EQ(ends.SendEnd(7, end), absl::OkStatus());
    } else {
      Bytes whole = Head(7, kEnd);
      whole.insert(whole.end(), end.begin(), end.end());
      ASSERT_EQ(ends.transport->Send(7, whole, Soon()), absl::OkStatus());
    }
    const absl::StatusOr<FrameBytes> reply = ends.transport->Receive(7, Soon());
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->device.empty(), !routers);
    Bytes got = Copy(reply->bytes);
    got.insert(got.end(), reply->device.begin(), reply->device.end());
    Bytes expected = Head(7, kEnd, FrameKind::kReply);
    expected.insert(expected.end(), end.begin(), end.end());
    EXPECT_EQ(got, expected);
  }
}

TEST_F(NcclDeviceTest, WithoutMemoryFramesAreToGoFromTheHosts) {
  NcclEnd router(&world, kKeeps);
  NcclEnd worker(&world, kKeeps);
  Ends ends(router, worker, options, Answer);
  router.process->LimitAllocations(0);
  // More than lies idle.
  EXPECT_EQ(ends.SendEnd(7, End(kEnd)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(ends.transport->Lost());
  router.process->LimitAllocations(-1);
  EXPECT_EQ(ends.SendEnd(7, End(kEnd)), absl::OkStatus());
  EXPECT_TRUE(ends.transport->Receive(7, Soon()).ok());
}

TEST_F(NcclDeviceTest, WithoutMemoryFramesGoWholeAheadOfAllTransfers) {
  const Bytes end = End(kEnd);
  Bytes large = Head(7, kEnd);
  large.insert(large.end(), end.begin(), end.end());
  const Bytes small = Head(8, 0);
  for (const bool routers : {true, false}) {
    SCOPED_TRACE(routers);
    NcclEnd router(&world, kKeeps);
    NcclEnd worker(&world, kKeeps);
    Ends ends(router, worker, options, [&](const FrameBytes& frame, DeviceWriter* writer) {
      EXPECT_EQ(Copy(frame.bytes), routers ? large : small);
      EXPECT_TRUE(frame.device.empty());
      const Bytes head = Head(routers ? 7 : 8, routers ? 0 : kEnd, FrameKind::kReply);
      if (!routers) {
        EXPECT_TRUE(absl::IsResourceExhausted(writer->TakeDevice(head.size(), kEnd).status()));
      }
      EXPECT_EQ(writer->Write(FramePieces(head, std::span(end).first(routers ? 0 : kEnd))), absl::OkStatus());
    });
    (routers ? router : worker).process->LimitAllocations(0);
    ASSERT_EQ(ends.transport->Send(routers ? 7 : 8, routers ? large : small, Soon()), absl::OkStatus());
    const absl::StatusOr<FrameBytes> reply = ends.transport->Receive(routers ? 7 : 8, Soon());
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->size(), sizeof(FrameHeader) + (routers ? 0 : kEnd));
    EXPECT_FALSE(ends.transport->Lost());
  }
}

TEST_F(NcclDeviceTest, DispatchesAreTakenInTheOrderInWhichTheyWereSent) {
  NcclEnd router(&world, kKeeps);
  NcclEnd worker(&world, kKeeps);
  std::vector<uint64_t> order;  // of the server's thread until it ends
  {
    Ends ends(router, worker, options, [&](const FrameBytes& frame, DeviceWriter* writer) {
      order.push_back(DecodeHeader(frame.bytes, frame.device.size())->dispatch_id);
      writer->Write(Head(order.back(), 0, FrameKind::kReply)).IgnoreError();
    });
    for (uint64_t id = 0; id < 40; id += 2) {
      ASSERT_EQ(ends.SendEnd(id, End(kEnd)), absl::OkStatus());
      ASSERT_EQ(ends.transport->Send(id + 1, Head(id + 1, 0), Soon()), absl::OkStatus());
      for (const uint64_t each : {id, id + 1}) {
        EXPECT_TRUE(ends.transport->Receive(each, Soon()).ok());
        ends.transport->Forget(each);
      }
    }
  }
  ASSERT_EQ(order.size(), 40u);
  for (uint64_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], i);
}

TEST_F(NcclDeviceTest, TakesNoMemoryForWhatIsNotCarried) {
  options.max_dispatch_frame_bytes = 1000;
  NcclEnd router(&world, kKeeps);
  NcclEnd worker(&world, kKeeps);
  Ends ends(router, worker, options, Answer);
  DeviceSender& sender = *ends.transport->device_sender();
  EXPECT_TRUE(sender.TakeDevice(100, 900).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(sender.TakeDevice(101, 900).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(sender.TakeDevice(0, 1001).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(sender.TakeDevice(kMaxNcclHeadBytes + 1, 1).status()));
}

// A head that says another length than that of what is to follow.
TEST_F(NcclDeviceTest, AHeadThatLiesIsTheEndOfThePair) {
  for (const bool routers : {true, false}) {
    SCOPED_TRACE(routers);
    NcclEnd router(&world, kKeeps);
    NcclEnd worker(&world, kKeeps);
    std::atomic<int> dispatches = 0;
    Ends ends(router, worker, options, [&](const FrameBytes&, DeviceWriter* writer) {
      ++dispatches;
      absl::StatusOr<DeviceBytes> parts = writer->TakeDevice(sizeof(FrameHeader), 99);
      writer->WriteParts(Head(7, 100, FrameKind::kReply), *std::move(parts)).IgnoreError();
    });
    DeviceSender& sender = *ends.transport->device_sender();
    absl::StatusOr<DeviceBytes> rows = sender.TakeDevice(sizeof(FrameHeader), 99);
    ASSERT_TRUE(rows.ok());
    ASSERT_EQ(sender.SendRows(7, Head(7, routers ? 100 : 99), *std::move(rows), Soon()), absl::OkStatus());
    const absl::StatusOr<FrameBytes> reply = ends.transport->Receive(7, Soon());
    EXPECT_TRUE(absl::IsUnavailable(reply.status())) << reply.status();
    EXPECT_TRUE(ends.transport->Lost());
    ends.server->Stop();
    if (!routers) {
      EXPECT_THAT(std::string(reply.status().message()), HasSubstr("length is 204, received 203"));
    }
    EXPECT_EQ(dispatches, routers ? 0 : 1);
  }
}

}  // namespace
}  // namespace moepool
