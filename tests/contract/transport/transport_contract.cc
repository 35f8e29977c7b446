#include "tests/contract/transport/transport_contract.h"

#include <atomic>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/transport/frame.h"

namespace moepool {
namespace {

using Frame = std::vector<uint8_t>;

// Far enough that only a hang reaches it.
absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

// A frame with a valid header and `payload` pseudo-random bytes.
Frame MakeFrame(uint64_t dispatch_id, size_t payload, FrameKind kind = FrameKind::kDispatch,
                uint32_t mark = 0) {
  FrameHeader header;
  header.kind = kind;
  header.dispatch_id = dispatch_id;
  header.first_part = mark;
  header.length = sizeof(header) + payload;
  Frame frame(header.length);
  std::memcpy(frame.data(), &header, sizeof(header));
  std::minstd_rand random(static_cast<uint32_t>(dispatch_id + payload + 1));
  for (size_t i = sizeof(header); i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(random() >> 7);
  return frame;
}

Frame Copy(std::span<const uint8_t> bytes) { return {bytes.begin(), bytes.end()}; }

uint64_t IdOf(std::span<const uint8_t> frame) { return DecodeHeader(frame)->dispatch_id; }

void Echo(std::span<const uint8_t> frame, const FrameWriter& write) { write(frame).IgnoreError(); }
void Swallow(std::span<const uint8_t>, const FrameWriter&) {}

TransportOptions Big() {
  TransportOptions options;
  options.max_reply_frame_bytes = 32u << 20;
  options.ring_bytes = 1u << 20;  // far below the largest frames
  return options;
}

TEST_P(TransportContractTest, EchoesOddSizesAligned) {
  auto harness = GetParam().make(Echo, Big());
  uint64_t id = 100;
  for (const size_t payload : {0u, 1u, 7u, 8u, 1000u, 16384u, 65537u, 262144u, 1048576u}) {
    const Frame frame = MakeFrame(++id, payload);
    ASSERT_TRUE(harness->router().Send(id, frame, Soon()).ok());
    const absl::StatusOr<FrameBytes> reply = harness->router().Receive(id, Soon());
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(Copy(reply->bytes), frame) << payload;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(reply->bytes.data()) % 8, 0u);
    harness->router().Forget(id);
  }
}

TEST_P(TransportContractTest, CarriesFramesLargerThanItsBuffers) {
  auto harness = GetParam().make(Echo, Big());
  const Frame frame = MakeFrame(5, (16u << 20) + 13);
  ASSERT_TRUE(harness->router().Send(5, frame, Soon()).ok());
  const absl::StatusOr<FrameBytes> reply = harness->router().Receive(5, Soon());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(Copy(reply->bytes), frame);
}

TEST_P(TransportContractTest, ADispatchBeyondTheLimitIsResourceExhaustedAndHarmless) {
  TransportOptions options;
  options.max_dispatch_frame_bytes = 1000;
  auto harness = GetParam().make(Echo, options);
  EXPECT_EQ(harness->router().Send(1, MakeFrame(1, 1000), Soon()).code(),
            absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(harness->router().Send(1, MakeFrame(1, 800), Soon()).ok());
  EXPECT_TRUE(harness->router().Receive(1, Soon()).ok());
}

TEST_P(TransportContractTest, RepliesInAnyOrderReachTheirDispatch) {
  constexpr int kDispatches = 32;
  constexpr int kReplies = 3;
  TransportOptions options = Big();
  options.credits = kDispatches;
  // Answers nothing until all dispatches are there, and then each in several frames, mixed.
  auto held = std::make_shared<std::vector<uint64_t>>();
  auto harness = GetParam().make(
      [held](std::span<const uint8_t> frame, const FrameWriter& write) {
        held->push_back(IdOf(frame));
        if (held->size() < kDispatches) return;
        for (uint32_t mark = 0; mark < kReplies; ++mark) {
          for (auto it = held->rbegin(); it != held->rend(); ++it) {
            write(MakeFrame(*it, 50 * mark + *it, FrameKind::kReply, mark)).IgnoreError();
          }
        }
      },
      options);
  for (uint64_t id = 1; id <= kDispatches; ++id) {
    ASSERT_TRUE(harness->router().Send(id, MakeFrame(id, 3000), Soon()).ok());
  }
  for (uint64_t id = 1; id <= kDispatches; ++id) {
    for (uint32_t mark = 0; mark < kReplies; ++mark) {
      const absl::StatusOr<FrameBytes> reply = harness->router().Receive(id, Soon());
      ASSERT_TRUE(reply.ok()) << reply.status();
      EXPECT_EQ(Copy(reply->bytes), MakeFrame(id, 50 * mark + id, FrameKind::kReply, mark));
    }
  }
}

// As micro-batches go: the next dispatch of one is sent while the other's is under way, each answered in
// several frames and received by the thread that sends. Then both are forgotten while answers are on the way.
TEST_P(TransportContractTest, TwoDispatchesTakeTurns) {
  constexpr uint32_t kReplies = 3;
  constexpr size_t kReplyBytes = 200'000;  // of both more than a ring holds
  TransportOptions options = Big();
  options.credits = 2;
  auto harness = GetParam().make(
      [](std::span<const uint8_t> frame, const FrameWriter& write) {
        for (uint32_t mark = 0; mark < kReplies; ++mark) {
          write(MakeFrame(IdOf(frame), kReplyBytes + mark, FrameKind::kReply, mark)).IgnoreError();
        }
      },
      options);
  ExpertTransport& router = harness->router();
  uint64_t next = 1;
  const auto send = [&] {
    const uint64_t id = next++;
    ASSERT_TRUE(router.Send(id, MakeFrame(id, 90'000 + id), Soon()).ok());
  };
  const auto receive = [&](uint64_t id, uint32_t replies) {
    for (uint32_t mark = 0; mark < replies; ++mark) {
      const absl::StatusOr<FrameBytes> reply = router.Receive(id, Soon());
      ASSERT_TRUE(reply.ok()) << reply.status();
      EXPECT_EQ(Copy(reply->bytes), MakeFrame(id, kReplyBytes + mark, FrameKind::kReply, mark)) << id;
    }
    router.Forget(id);
  };
  send();
  for (int i = 0; i < 20; ++i) {
    send();
    receive(next - 2, kReplies);
  }
  send();
  receive(next - 1, 1);  // the later one first, and given up in the middle
  router.Forget(next - 2);
  send();
  send();
  receive(next - 2, kReplies);
  receive(next - 1, kReplies);
}

TEST_P(TransportContractTest, ManyThreadsSendAndReceiveAtOnce) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 100;
  TransportOptions options = Big();
  options.credits = 3;  // fewer than threads
  auto harness = GetParam().make(Echo, options);
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        const uint64_t id = 1 + t * kRounds + i;
        const Frame frame = MakeFrame(id, (id * 7919) % 40000);
        if (!harness->router().Send(id, frame, Soon()).ok()) continue;
        const absl::StatusOr<FrameBytes> reply = harness->router().Receive(id, Soon());
        if (reply.ok() && Copy(reply->bytes) == frame) ++good;
        harness->router().Forget(id);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good.load(), kThreads * kRounds);
}

TEST_P(TransportContractTest, RepliesThatNobodyReadsDoNotBlockADispatch) {
  // Replies overflow the ring while the router sends more than fits the other one.
  TransportOptions options = Big();
  options.credits = 8;
  options.ring_bytes = 1 << 16;
  auto harness = GetParam().make(Echo, options);
  for (uint64_t id = 1; id <= 8; ++id) {
    ASSERT_TRUE(harness->router().Send(id, MakeFrame(id, 200000), Soon()).ok());
  }
  for (uint64_t id = 8; id >= 1; --id) {
    const absl::StatusOr<FrameBytes> reply = harness->router().Receive(id, Soon());
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->bytes.size(), 200000 + sizeof(FrameHeader));
  }
}

TEST_P(TransportContractTest, DuplicatesArePassedOnAndStrangersDropped) {
  auto harness = GetParam().make(
      [](std::span<const uint8_t> frame, const FrameWriter& write) {
        write(MakeFrame(999, 10, FrameKind::kReply)).IgnoreError();  // never begun
        write(MakeFrame(1, 10, FrameKind::kReply)).IgnoreError();    // forgotten
        write(frame).IgnoreError();
        write(frame).IgnoreError();
      },
      {});
  ASSERT_TRUE(harness->router().Send(1, MakeFrame(1, 5), Soon()).ok());
  ASSERT_TRUE(harness->router().Receive(1, Soon()).ok());
  harness->router().Forget(1);
  EXPECT_EQ(harness->router().Receive(1, Soon()).status().code(), absl::StatusCode::kInvalidArgument);
  const Frame frame = MakeFrame(2, 6);
  ASSERT_TRUE(harness->router().Send(2, frame, Soon()).ok());
  for (int i = 0; i < 2; ++i) {
    const absl::StatusOr<FrameBytes> reply = harness->router().Receive(2, Soon());
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(Copy(reply->bytes), frame);
  }
  EXPECT_EQ(harness->router().Receive(2, absl::Now() + absl::Milliseconds(20)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_P(TransportContractTest, ReceiveEndsAtItsDeadlineAndTheTransportGoesOn) {
  auto harness = GetParam().make(Swallow, {});
  ASSERT_TRUE(harness->router().Send(1, MakeFrame(1, 5), Soon()).ok());
  for (const absl::Duration wait : {absl::ZeroDuration(), absl::Milliseconds(30), -absl::Seconds(1)}) {
    EXPECT_EQ(harness->router().Receive(1, absl::Now() + wait).status().code(),
              absl::StatusCode::kDeadlineExceeded);
  }
  EXPECT_FALSE(harness->router().Lost());
}

TEST_P(TransportContractTest, SendEndsAtItsDeadlineWhereCreditsAreUsedUpAndForgettingReturnsOne) {
  TransportOptions options;
  options.credits = 2;
  auto harness = GetParam().make(Swallow, options);
  ASSERT_TRUE(harness->router().Send(1, MakeFrame(1, 5), Soon()).ok());
  ASSERT_TRUE(harness->router().Send(2, MakeFrame(2, 5), Soon()).ok());
  const absl::Status status =
      harness->router().Send(3, MakeFrame(3, 5), absl::Now() + absl::Milliseconds(20));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  harness->router().Forget(1);
  EXPECT_TRUE(harness->router().Send(3, MakeFrame(3, 5), Soon()).ok());
}

TEST_P(TransportContractTest, CloseWakesWaitersAndLossIsForEver) {
  TransportOptions options;
  options.credits = 1;
  auto harness = GetParam().make(Swallow, options);
  ASSERT_TRUE(harness->router().Send(1, MakeFrame(1, 5), Soon()).ok());
  std::vector<absl::Status> statuses(3);
  std::vector<std::thread> waiters;
  waiters.emplace_back([&] { statuses[0] = harness->router().Receive(1, absl::InfiniteFuture()).status(); });
  waiters.emplace_back([&] { statuses[1] = harness->router().Receive(1, absl::InfiniteFuture()).status(); });
  waiters.emplace_back(
      [&] { statuses[2] = harness->router().Send(2, MakeFrame(2, 5), absl::InfiniteFuture()); });
  harness->router().Close(absl::DataLossError("enough of this worker"));
  for (std::thread& waiter : waiters) waiter.join();
  statuses.push_back(harness->router().Send(3, MakeFrame(3, 5), Soon()));
  statuses.push_back(harness->router().Receive(1, Soon()).status());
  harness->router().Close(absl::InternalError("another cause"));
  statuses.push_back(harness->router().Receive(1, Soon()).status());
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_NE(std::string(status.message()).find("enough of this worker"), std::string::npos) << status;
  }
  EXPECT_TRUE(harness->router().Lost());
}

TEST_P(TransportContractTest, ADeadWorkerIsUnavailableForEver) {
  auto harness = GetParam().make(Swallow, {});
  ASSERT_TRUE(harness->router().Send(1, MakeFrame(1, 5), Soon()).ok());
  absl::Status status;
  std::thread waiter([&] { status = harness->router().Receive(1, absl::InfiniteFuture()).status(); });
  harness->KillWorker();
  waiter.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_TRUE(harness->router().Lost());
  EXPECT_EQ(harness->router().Receive(1, Soon()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(harness->router().Send(2, MakeFrame(2, 5), Soon()).code(), absl::StatusCode::kUnavailable);
}

TEST_P(TransportContractTest, AMalformedReplyIsLoss) {
  for (int kind = 0; kind < 3; ++kind) {
    auto harness = GetParam().make(
        [kind](std::span<const uint8_t> frame, const FrameWriter& write) {
          Frame bad = Copy(frame);
          if (kind == 0) bad[0] ^= 1;       // magic
          if (kind == 1) bad.push_back(0);  // length
          if (kind == 2) bad.resize(20);
          write(bad).IgnoreError();
        },
        {});
    // In process, the loss is known when Send returns.
    harness->router().Send(1, MakeFrame(1, 5), Soon()).IgnoreError();
    const absl::Status status = harness->router().Receive(1, Soon()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_TRUE(harness->router().Lost());
  }
}

TEST_P(TransportContractTest, MoreRepliesThanAreReadIsLoss) {
  TransportOptions options;
  options.max_queued_bytes = 100'000;
  auto harness = GetParam().make(
      [](std::span<const uint8_t> frame, const FrameWriter& write) {
        for (int i = 0; i < 100; ++i) {
          if (!write(MakeFrame(IdOf(frame), 10'000, FrameKind::kReply)).ok()) return;
        }
      },
      options);
  harness->router().Send(1, MakeFrame(1, 5), Soon()).IgnoreError();
  absl::Status status;
  // Reads another dispatch's replies, of which there are none, until the flood for the first is too much.
  harness->router().Send(2, MakeFrame(2, 5), Soon()).IgnoreError();
  while (status.ok()) status = harness->router().Receive(2, Soon()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

}  // namespace
}  // namespace moepool
