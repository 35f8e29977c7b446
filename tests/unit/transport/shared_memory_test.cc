// Rings with a hostile other side, the handshake, and workers that are killed: what the contract suite cannot
// reach.
#include "common/transport/shared_memory.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

constexpr uint64_t kRing = 4096;

struct TestRing {
  TestRing() : data(kRing + 64, 0xA5) {}
  RingControl control{};
  std::vector<uint8_t> data;  // with guard bytes behind the ring
  bool GuardIntact() const {
    return std::all_of(data.begin() + kRing, data.end(), [](uint8_t b) { return b == 0xA5; });
  }
};

absl::Status GoOn() { return absl::OkStatus(); }

std::vector<uint8_t> Bytes(size_t n, uint32_t seed) {
  std::vector<uint8_t> bytes(n);
  std::minstd_rand random(seed + 1);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random() >> 9);
  return bytes;
}

TEST(RingTest, CarriesFramesOfAllSizesAcrossTheWrap) {
  TestRing ring;
  RingSender sender(&ring.control, ring.data.data(), kRing);
  RingReceiver receiver(&ring.control, ring.data.data(), kRing, 1 << 20);
  for (uint32_t size = 1; size < 3500; size += 37) {
    const std::vector<uint8_t> sent = Bytes(size, size);
    ASSERT_TRUE(sender.Send(sent, absl::Now() + absl::Seconds(10), absl::Milliseconds(1), GoOn).ok());
    FrameBytes frame;
    const auto received = receiver.Poll(&frame);
    ASSERT_TRUE(received.ok()) << received.status();
    ASSERT_TRUE(*received);
    EXPECT_TRUE(std::equal(sent.begin(), sent.end(), frame.bytes.begin(), frame.bytes.end()));
    EXPECT_FALSE(*receiver.Poll(&frame));
  }
  EXPECT_TRUE(ring.GuardIntact());
}

TEST(RingTest, StreamsAFrameLargerThanTheRing) {
  TestRing ring;
  const std::vector<uint8_t> sent = Bytes(100'001, 7);
  std::thread producer([&] {
    RingSender sender(&ring.control, ring.data.data(), kRing);
    EXPECT_TRUE(sender.Send(sent, absl::Now() + absl::Seconds(60), absl::Milliseconds(1), GoOn).ok());
  });
  RingReceiver receiver(&ring.control, ring.data.data(), kRing, 1 << 20);
  FrameBytes frame;
  for (;;) {
    const auto received = receiver.Poll(&frame);
    ASSERT_TRUE(received.ok()) << received.status();
    if (*received) break;
    receiver.Wait(absl::Milliseconds(100));
  }
  producer.join();
  EXPECT_TRUE(std::equal(sent.begin(), sent.end(), frame.bytes.begin(), frame.bytes.end()));
}

TEST(RingTest, ASenderOutOfTimeLeavesTheRingUsable) {
  TestRing ring;
  RingSender sender(&ring.control, ring.data.data(), kRing);
  RingReceiver receiver(&ring.control, ring.data.data(), kRing, 1 << 20);
  // Longer than the ring: the first pieces are written, the rest is not.
  const absl::Status status =
      sender.Send(Bytes(10'000, 1), absl::Now() + absl::Milliseconds(5), absl::Milliseconds(1), GoOn);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  FrameBytes frame;
  auto received = receiver.Poll(&frame);
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_FALSE(*received);
  const std::vector<uint8_t> next = Bytes(77, 2);
  ASSERT_TRUE(sender.Send(next, absl::Now() + absl::Seconds(10), absl::Milliseconds(1), GoOn).ok());
  received = receiver.Poll(&frame);
  ASSERT_TRUE(received.ok()) << received.status();
  ASSERT_TRUE(*received);
  EXPECT_TRUE(std::equal(next.begin(), next.end(), frame.bytes.begin(), frame.bytes.end()));
}

TEST(RingTest, ASenderStopsWhereTheConsumersPositionIsImpossible) {
  for (const uint64_t tail : {uint64_t{1}, uint64_t{1} << 40, ~kRing}) {
    TestRing ring;
    ring.control.tail = tail;
    RingSender sender(&ring.control, ring.data.data(), kRing);
    const absl::Status status =
        sender.Send(Bytes(10, 1), absl::Now() + absl::Seconds(10), absl::Milliseconds(1), GoOn);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << tail;
  }
}

TEST(RingTest, AReceiverRefusesEachImpossibleValue) {
  struct Case {
    const char* what;
    uint64_t head;
    RingRecord record;
  };
  for (const Case& c : {
           Case{"head beyond the ring", kRing + 16, {16, 1, 16}},
           Case{"head behind", ~uint64_t{15}, {16, 1, 16}},
           Case{"head between records", 33, {16, 1, 16}},
           Case{"empty record", 32, {0, 1, 16}},
           Case{"record beyond what is written", 32, {17, 1, 17}},
           Case{"record of 4 GiB", 32, {0xFFFFFFFF, 1, 1 << 10}},
           Case{"record whose padding overflows", 32, {0xFFFFFFF1, 1, 1 << 10}},
           Case{"frame of nothing", 32, {16, 1, 0}},
           Case{"frame beyond the limit", 32, {16, 1, (1 << 20) + 1}},
           Case{"frame of 2^64 - 1 bytes", 32, {16, 1, ~uint64_t{0}}},
           Case{"piece without a frame", 32, {16, 0, 16}},
           Case{"unknown mark", 32, {16, 2, 16}},
           Case{"piece longer than its frame", 32, {16, 1, 15}},
       }) {
    TestRing ring;
    std::memcpy(ring.data.data(), &c.record, sizeof(c.record));
    ring.control.head = c.head;
    RingReceiver receiver(&ring.control, ring.data.data(), kRing, 1 << 20);
    FrameBytes frame;
    EXPECT_EQ(receiver.Poll(&frame).status().code(), absl::StatusCode::kDataLoss) << c.what;
  }
}

// Writes the same records for ever, as fast as they are read: the ring is always full. Ends by itself, so
// that a reader who cannot stop does, after `rounds` of the ring.
void Flood(RingControl* control, uint64_t ring_bytes, uint64_t rounds) {
  uint64_t tail = 0;
  for (uint64_t filled = 0; tail < rounds * ring_bytes; tail = control->tail.load()) {
    if (tail + ring_bytes == filled) std::this_thread::yield();
    control->head.store(filled = tail + ring_bytes);
  }
}

TEST(RingTest, AFloodDoesNotKeepTheReceiver) {
  constexpr uint64_t kRounds = 4096;
  TestRing ring;
  const RingRecord record{16, 1, 1000};  // begins a frame, which the next record abandons
  for (size_t at = 0; at < kRing; at += 32) std::memcpy(&ring.data[at], &record, sizeof(record));
  std::thread producer([&] { Flood(&ring.control, kRing, kRounds); });
  RingReceiver receiver(&ring.control, ring.data.data(), kRing, 1 << 20);
  while (receiver.read_bytes() < kRounds * kRing) {
    const uint64_t before = receiver.read_bytes();
    FrameBytes frame;
    const auto received = receiver.Poll(&frame);
    ASSERT_TRUE(received.ok()) << received.status();
    EXPECT_FALSE(*received);
    EXPECT_LE(receiver.read_bytes() - before, kRing);
    if (receiver.read_bytes() == before) std::this_thread::yield();
  }
  producer.join();
}

// By processor time, which other processes do not add to: one that stayed awake in each wait would use 2 ms
// of it a wait.
TEST(RingTest, WaitsInSlicesStayAwakeOnce) {
  const auto used = [] {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return absl::DurationFromTimespec(now);
  };
  TestRing ring;
  RingSender sender(&ring.control, ring.data.data(), kRing);
  RingReceiver receiver(&ring.control, ring.data.data(), kRing, 1 << 20);
  for (int round = 0; round < 2; ++round) {  // after a frame as at first
    receiver.Wait(absl::ZeroDuration());
    const absl::Duration before = used();
    for (int i = 0; i < 50; ++i) receiver.Wait(absl::Microseconds(100));
    EXPECT_LT(used() - before, absl::Milliseconds(50));
    ASSERT_TRUE(sender.Send(Bytes(77, 2), absl::InfiniteFuture(), absl::Milliseconds(1), GoOn).ok());
    receiver.Wait(absl::Seconds(60));  // at once: it is there
    FrameBytes frame;
    EXPECT_TRUE(*receiver.Poll(&frame));
  }
}

TEST(RingTest, RandomContentsNeverReachBeyondTheRing) {
  constexpr uint32_t kSeed = 4711;
  std::mt19937 random(kSeed);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    TestRing ring;
    for (size_t i = 0; i < kRing; i += 4) {
      // Small numbers most of the time, so that some records are plausible.
      const uint32_t word = random() % 3 == 0 ? random() : random() % 64;
      std::memcpy(&ring.data[i], &word, 4);
    }
    RingReceiver receiver(&ring.control, ring.data.data(), kRing, 1 << 16);
    for (int step = 0; step < 20; ++step) {
      ring.control.head = ring.control.head + (random() % 4 == 0 ? random() : (random() % 20) * 16);
      FrameBytes frame;
      const auto received = receiver.Poll(&frame);
      if (!received.ok()) {
        ++refused;
        break;
      }
      EXPECT_LE(frame.bytes.size(), 1u << 16);
    }
    ASSERT_TRUE(ring.GuardIntact());
  }
  EXPECT_GT(refused, 1000) << "seed " << kSeed;
}

TEST(SegmentTest, RefusesUnsealedAndMissizedMemory) {
  EXPECT_EQ(SharedMemorySegment::Create(5000).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SharedMemorySegment::Create(1024).status().code(), absl::StatusCode::kInvalidArgument);
  UniqueFd unsealed(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), 4096 + 2 * kRing), 0);
  EXPECT_EQ(SharedMemorySegment::Open(std::move(unsealed), kRing).status().code(),
            absl::StatusCode::kInvalidArgument);
  auto segment = SharedMemorySegment::Create(kRing);
  ASSERT_TRUE(segment.ok());
  EXPECT_NE(ftruncate((*segment)->fd(), 100), 0) << "the size is sealed";
  EXPECT_EQ(SharedMemorySegment::Open(UniqueFd(dup((*segment)->fd())), 2 * kRing).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(SharedMemorySegment::Open(UniqueFd(dup((*segment)->fd())), kRing).ok());
}

// Accepts one connection.
class Accepter {
 public:
  Accepter() {
    socket_ = *SharedMemorySocket::Listen(
        1 << 16, {[](const std::string& session) { return session == "known"; },
                  [this](const std::string&, SharedMemoryConnection connection) {
                    MutexLock lock(&mutex_);
                    connection_ = std::make_unique<SharedMemoryConnection>(std::move(connection));
                    changed_.NotifyAll();
                  }});
  }
  const std::string& name() const { return socket_->name(); }
  SharedMemoryConnection Take() {
    MutexLock lock(&mutex_);
    while (connection_ == nullptr) changed_.Wait(&mutex_);
    return std::move(*std::exchange(connection_, nullptr));
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::unique_ptr<SharedMemoryConnection> connection_;
  std::unique_ptr<SharedMemorySocket> socket_;  // last: its thread ends first
};

TEST(SocketTest, RefusesUnknownSessionsAndUnreachableNames) {
  Accepter accepter;
  EXPECT_EQ(DialSharedMemory(accepter.name(), "unknown", absl::Seconds(5)).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(DialSharedMemory(accepter.name() + "x", "known", absl::Seconds(5)).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(DialSharedMemory("", "known", absl::Seconds(5)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DialSharedMemory(std::string(200, 'n'), "known", absl::Seconds(5)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DialSharedMemory(accepter.name(), std::string(200, 's'), absl::Seconds(5)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(DialSharedMemory(accepter.name(), "known", absl::Seconds(5)).ok());
}

std::vector<uint8_t> Dispatch(uint64_t id, size_t payload) {
  FrameHeader header;
  header.dispatch_id = id;
  header.length = sizeof(header) + payload;
  std::vector<uint8_t> frame(header.length, 3);
  std::memcpy(frame.data(), &header, sizeof(header));
  return frame;
}

// A worker's process that answers `replies` dispatches by echo and then does as told.
enum class Last { kSleep, kHalfAFrame, kGarbageHead };
pid_t ForkWorker(const std::string& name, int replies, Last last) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  auto connection = DialSharedMemory(name, "known", absl::Seconds(20));
  if (!connection.ok()) _exit(9);
  const SharedMemorySegment& segment = *connection->segment;
  RingReceiver receiver(segment.to_worker(), segment.to_worker_data(), segment.ring_bytes(), 1 << 24);
  RingSender sender(segment.to_router(), segment.to_router_data(), segment.ring_bytes());
  for (int i = 0; i <= replies;) {
    FrameBytes frame;
    const auto received = receiver.Poll(&frame);
    if (!received.ok()) _exit(8);
    if (!*received) {
      receiver.Wait(absl::Milliseconds(100));
      continue;
    }
    if (i++ < replies) {
      if (!sender.Send(frame.bytes, absl::InfiniteFuture(), absl::Milliseconds(20), GoOn).ok()) _exit(7);
    }
  }
  if (last == Last::kHalfAFrame) {
    const uint64_t head = segment.to_router()->head.load();
    const RingRecord record{16, 1, 1000};
    std::memcpy(segment.to_router_data() + head % segment.ring_bytes(), &record, sizeof(record));
    segment.to_router()->head.store(head + 32);
    WakeRing(segment.to_router());
    _exit(0);
  }
  if (last == Last::kGarbageHead) {
    segment.to_router()->head.store(0xDEADBEEFDEADBEEF);
    WakeRing(segment.to_router());
  }
  for (;;) pause();
}

TEST(SharedMemoryTest, AKilledProcessIsLossForTheWaiterAndForEver) {
  for (const Last last : {Last::kSleep, Last::kHalfAFrame, Last::kGarbageHead}) {
    Accepter accepter;
    const pid_t pid = ForkWorker(accepter.name(), 1, last);
    ASSERT_GT(pid, 0);
    auto transport = MakeSharedMemoryTransport(accepter.Take());
    const absl::Time soon = absl::Now() + absl::Seconds(60);
    ASSERT_TRUE(transport->Send(1, Dispatch(1, 100), soon).ok());
    ASSERT_TRUE(transport->Receive(1, soon).ok());
    EXPECT_FALSE(transport->Lost());
    ASSERT_TRUE(transport->Send(2, Dispatch(2, 100), soon).ok());
    absl::Status status;
    std::thread waiter([&] { status = transport->Receive(2, absl::InfiniteFuture()).status(); });
    if (last == Last::kSleep) kill(pid, SIGKILL);
    waiter.join();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_TRUE(transport->Lost());
    EXPECT_EQ(transport->Send(3, Dispatch(3, 1), soon).code(), absl::StatusCode::kUnavailable);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
}

TEST(SharedMemoryTest, AKilledProcessIsSeenByAnIdleRouterAndByASender) {
  Accepter accepter;
  const pid_t pid = ForkWorker(accepter.name(), 0, Last::kSleep);
  ASSERT_GT(pid, 0);
  TransportOptions options;
  options.credits = 100;
  auto transport = MakeSharedMemoryTransport(accepter.Take(), options);
  ASSERT_TRUE(transport->Send(1, Dispatch(1, 10), absl::InfiniteFuture()).ok());
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  // Nobody reads the ring any more: a sender that would wait for space for ever gets the loss.
  const absl::Status status = transport->Send(2, Dispatch(2, 1 << 20), absl::InfiniteFuture());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_TRUE(transport->Lost());
}

// Frames of a dispatch that is not open, for ever.
TEST(SharedMemoryTest, AFloodOfStaleFramesDoesNotHoldUpReceive) {
  constexpr uint64_t kRounds = 1024;
  Accepter accepter;
  const auto worker = DialSharedMemory(accepter.name(), "known", absl::Seconds(20));
  ASSERT_TRUE(worker.ok()) << worker.status();
  auto transport = MakeSharedMemoryTransport(accepter.Take());
  ASSERT_TRUE(transport->Send(1, Dispatch(1, 100), absl::InfiniteFuture()).ok());
  const std::vector<uint8_t> stale = Dispatch(999, 0);
  const RingRecord record{static_cast<uint32_t>(stale.size()), 1, stale.size()};
  constexpr uint64_t kRecordBytes = 128;
  ASSERT_EQ((sizeof(record) + stale.size() + 15) / 16 * 16, kRecordBytes);
  const SharedMemorySegment& segment = *worker->segment;
  for (uint64_t at = 0; at < segment.ring_bytes(); at += kRecordBytes) {
    std::memcpy(segment.to_router_data() + at, &record, sizeof(record));
    std::memcpy(segment.to_router_data() + at + sizeof(record), stale.data(), stale.size());
  }
  const uint64_t all = kRounds * segment.ring_bytes();
  std::thread producer([&] { Flood(segment.to_router(), segment.ring_bytes(), kRounds); });
  uint64_t read = 0;
  while (read < all) {
    const absl::Status status = transport->Receive(1, absl::InfinitePast()).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    const uint64_t now = segment.to_router()->tail.load();
    EXPECT_LE(now - read, 2 * segment.ring_bytes());
    if (now == read) std::this_thread::yield();
    read = now;
  }
  producer.join();
}

TEST(SharedMemoryTest, AWorkerEndsWhenTheRouterIsGone) {
  Accepter accepter;
  auto connection = DialSharedMemory(accepter.name(), "known", absl::Seconds(20));
  ASSERT_TRUE(connection.ok());
  SharedMemoryServer server(*std::move(connection));
  auto transport = MakeSharedMemoryTransport(accepter.Take());
  absl::Status status;
  std::thread worker([&] { status = server.Serve([](std::span<const uint8_t>, const FrameWriter&) {}); });
  transport = nullptr;
  worker.join();
  EXPECT_FALSE(status.ok());
}

TEST(SharedMemoryTest, WhatARouterThatIsGoneHasAskedIsNotComputed) {
  Accepter accepter;
  auto connection = DialSharedMemory(accepter.name(), "known", absl::Seconds(20));
  ASSERT_TRUE(connection.ok());
  SharedMemoryServer server(*std::move(connection));
  auto transport = MakeSharedMemoryTransport(accepter.Take());
  std::vector<uint8_t> frame = Bytes(200, 1);
  ASSERT_TRUE(transport->Send(1, frame, absl::Now() + absl::Seconds(20)).ok());
  transport = nullptr;
  int computed = 0;
  const absl::Status status = server.Serve([&](std::span<const uint8_t>, const FrameWriter&) { ++computed; });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(computed, 0);
}

}  // namespace
}  // namespace moepool
