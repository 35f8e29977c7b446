#include "expert_worker/executor.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "common/transport/nccl_control.h"
#include "common/transport/reply_inbox.h"
#include "gmock/gmock.h"
#include "tests/unit/expert_worker/worker_testing.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;
using Frames = std::vector<std::vector<uint8_t>>;

class ExecutorTest : public testing::Test {
 protected:
  ExecutorTest()
      : store_(fixture_.source.get(), fixture_.backend.get(), 0),
        executor_(fixture_.backend.get(), &store_, fixture_.limits) {
    for (const int expert : {1, 2, 3}) EXPECT_TRUE(store_.Load(0, expert).ok());
  }
  Frames Handle(std::span<const uint8_t> frame) {
    Frames replies;
    executor_.Handle(frame, [&](const FramePieces& reply) {
      const FrameBytes whole = CopyFrame(reply);
      replies.emplace_back(whole.bytes.begin(), whole.bytes.end());
      // The time it took, which differs.
      std::memset(replies.back().data() + offsetof(FrameHeader, budget_us), 0,
                  sizeof(FrameHeader::budget_us));
      return absl::OkStatus();
    });
    return replies;
  }
  absl::Status Refusal(std::span<const uint8_t> frame) {
    const Frames replies = Handle(frame);
    EXPECT_EQ(replies.size(), 1u);
    if (replies.size() != 1) return absl::OkStatus();
    EXPECT_EQ(DecodeHeader(replies[0])->kind, FrameKind::kRefusal);
    EXPECT_EQ(DecodeHeader(replies[0])->dispatch_id, 7u);
    return DecodeRefusal(replies[0]);
  }

  WorkerFixture fixture_;
  ExpertStore store_;
  Executor executor_;
};

TEST_F(ExecutorTest, RepliesInWholePartsWithTheDevicesOwnBits) {
  const int rows = 1501;  // more than one frame of 256 KiB holds
  TestDispatch dispatch(fixture_.limits, rows, {1, 2, 3});
  const Frames replies = Handle(dispatch.Encode());
  EXPECT_GT(replies.size(), 1u);

  const size_t hidden = static_cast<size_t>(fixture_.limits.hidden);
  std::vector<ExpertPart> parts;
  for (int r = 0; r < rows; ++r) parts.push_back({r, r, r + 1});
  std::vector<float> expected(rows * hidden);
  std::vector<uint8_t> faults(rows, 0);
  fixture_.backend->Experts().Run(store_.Layer(0)->experts, {dispatch.request.x, parts, dispatch.entries},
                                  expected.data(), faults);
  uint32_t next = 0;
  for (const auto& reply : replies) {
    EXPECT_LE(reply.size(), kMaxReplyFrameBytes);
    const auto view = DecodeReply(reply, fixture_.limits);
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(view->header.dispatch_id, 7u);
    EXPECT_EQ(view->header.first_part, next);
    EXPECT_TRUE(std::equal(view->data.begin(), view->data.end(), expected.begin() + next * hidden));
    EXPECT_TRUE(std::all_of(view->faults.begin(), view->faults.end(), [](uint8_t f) { return f == 0; }));
    next += view->header.parts;
  }
  EXPECT_EQ(next, static_cast<uint32_t>(rows));
  EXPECT_TRUE(std::any_of(expected.begin(), expected.end(), [](float v) { return v != 0; }));
  EXPECT_EQ(executor_.stats().dispatches, 1u);
  EXPECT_EQ(executor_.stats().rows, static_cast<uint64_t>(rows));
}

// Of a GPU that is the host.
class RecordingWriter final : public DeviceWriter {
 public:
  absl::StatusOr<DeviceBytes> TakeDevice(size_t head_bytes, size_t bytes) override {
    EXPECT_LE(head_bytes, kMaxNcclHeadBytes);
    if (!has_memory) return absl::ResourceExhaustedError("none left");
    auto memory = std::make_shared<std::vector<float>>(bytes / sizeof(float));
    return DeviceBytes{reinterpret_cast<uint8_t*>(memory->data()), bytes, memory};
  }
  size_t small_frame_bytes() const override { return small_bytes; }
  absl::Status Write(const FramePieces& frame) override {
    host.push_back(CopyFrame(frame));
    return absl::OkStatus();
  }
  absl::Status WriteParts(std::span<const uint8_t> head, DeviceBytes parts) override {
    device.push_back(CopyFrame({head, {parts.data, parts.bytes}}));
    return absl::OkStatus();
  }

  bool has_memory = true;
  size_t small_bytes = 0;
  std::vector<FrameBytes> host;
  std::vector<FrameBytes> device;
};

TEST_F(ExecutorTest, PartsStayOnTheDeviceUnlessTheyAreFewOrThereIsNoMemory) {
  const int rows = 17001;  // more than one frame of 4 MiB holds
  TestDispatch dispatch(fixture_.limits, rows, {1, 2, 3});
  const std::vector<uint8_t> whole = dispatch.Encode();
  std::vector<uint8_t> head;
  EncodeDispatchHead(dispatch.request, &head);
  const FrameBytes frame = {head, nullptr, std::span(whole).subspan(head.size())};
  const auto values = [&](const std::vector<FrameBytes>& frames) {
    std::vector<float> all;
    for (const FrameBytes& reply : frames) {
      const auto view = DecodeReply(reply.bytes, fixture_.limits);
      EXPECT_TRUE(view.ok()) << view.status();
      EXPECT_EQ(view->header.first_part * static_cast<size_t>(fixture_.limits.hidden), all.size());
      all.insert(all.end(), view->data.begin(), view->data.end());
    }
    return all;
  };
  RecordingWriter keeps;
  executor_.Handle(frame, &keeps);
  EXPECT_THAT(keeps.host, testing::IsEmpty());
  EXPECT_GT(keeps.device.size(), 1u);
  for (const FrameBytes& reply : keeps.device) EXPECT_LE(reply.bytes.size(), kMaxDeviceReplyBytes);

  RecordingWriter without;
  without.has_memory = false;
  executor_.Handle(frame, &without);
  RecordingWriter few;
  few.small_bytes = size_t{1} << 30;
  executor_.Handle(FrameBytes{whole}, &few);
  const std::vector<float> expected = values(keeps.device);
  EXPECT_EQ(expected.size(), static_cast<size_t>(rows) * fixture_.limits.hidden);
  for (const RecordingWriter* writer : {&without, &few}) {
    EXPECT_THAT(writer->device, testing::IsEmpty());
    EXPECT_EQ(values(writer->host), expected);
  }
}

TEST_F(ExecutorTest, RepliesSayHowLongItComputedAndNotTheDispatchsBudget) {
  TestDispatch dispatch(fixture_.limits, 3, {1, 2});
  dispatch.request.header.budget_us = std::numeric_limits<uint32_t>::max();
  const absl::Time begin = absl::Now();
  uint32_t said_us = 0;
  executor_.Handle(dispatch.Encode(), [&](const FramePieces& reply) {
    said_us = DecodeHeader(CopyFrame(reply).bytes)->budget_us;
    return absl::OkStatus();
  });
  EXPECT_LE(absl::Microseconds(said_us), absl::Now() - begin);
}

// A second dispatch waits for the one that is computed, and its time runs out meanwhile.
TEST_F(ExecutorTest, DoesNotBeginWhatIsTooLate) {
  std::atomic<int64_t> now_us = 0;
  std::atomic<int> looks = 0;
  Executor executor(fixture_.backend.get(), &store_, fixture_.limits, [&] {
    const absl::Time now = absl::UnixEpoch() + absl::Microseconds(now_us.load());
    ++looks;
    return now;
  });
  for (const uint32_t budget_us : {0u, 1'000u, 1'001u}) {
    SCOPED_TRACE(budget_us);
    const uint64_t computed_before = executor.stats().dispatches;
    TestDispatch dispatch(fixture_.limits, 3, {1, 2});
    const std::vector<uint8_t> first = dispatch.Encode();
    dispatch.request.header.budget_us = budget_us;
    const std::vector<uint8_t> second = dispatch.Encode();
    absl::Status refusal;
    std::thread waiting;
    executor.Handle(first, [&](const FramePieces&) {
      // The first is still at it while its reply is written.
      const int looks_before = looks;
      waiting = std::thread([&] {
        executor.Handle(second, [&](const FramePieces& reply) {
          const FrameBytes whole = CopyFrame(reply);
          if (DecodeHeader(whole.bytes)->kind == FrameKind::kRefusal) refusal = DecodeRefusal(whole.bytes);
          return absl::OkStatus();
        });
      });
      while (looks == looks_before) std::this_thread::yield();  // until the second has arrived
      now_us += 1'000;
      return absl::OkStatus();
    });
    waiting.join();
    const bool late = budget_us == 1'000;
    EXPECT_EQ(refusal.code(), late ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kOk);
    EXPECT_EQ(executor.stats().dispatches - computed_before, late ? 1u : 2u);
    EXPECT_THAT(std::string(refusal.message()), HasSubstr(late ? "waited for 1000 us, and had 1000 us" : ""));
  }
  EXPECT_EQ(executor.stats().too_late, 1u);
  EXPECT_EQ(executor.stats().refusals, 1u);
}

TEST_F(ExecutorTest, CarriesFaultsOfPartsThatAreNotFinite) {
  TestDispatch dispatch(fixture_.limits, 3, {1});
  const size_t blocks = static_cast<size_t>(fixture_.limits.hidden) / 32;
  for (size_t b = 0; b < blocks; ++b) dispatch.scale[blocks + b] = 3e38f;  // row 1
  const Frames replies = Handle(dispatch.Encode());
  ASSERT_EQ(replies.size(), 1u);
  const auto view = DecodeReply(replies[0], fixture_.limits);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(std::vector<uint8_t>(view->faults.begin(), view->faults.end()), (std::vector<uint8_t>{0, 1, 0}));
}

TEST_F(ExecutorTest, RefusesAMissingExpertByName) {
  const absl::Status status = Refusal(TestDispatch(fixture_.limits, 2, {1, 6}).Encode());
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("expert 6 of layer 0"));
  EXPECT_EQ(Refusal(TestDispatch(fixture_.limits, 2, {1}, /*layer=*/1).Encode()).code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(executor_.stats().refusals, 2u);
}

TEST_F(ExecutorTest, RefusesAnotherModelAndAnUnfitDType) {
  TestDispatch other(fixture_.limits, 1, {1});
  other.request.header.model_digest ^= 1;
  EXPECT_EQ(Refusal(other.Encode()).code(), absl::StatusCode::kFailedPrecondition);

  TestDispatch floats(fixture_.limits, 1, {1});
  std::vector<float> row(static_cast<size_t>(fixture_.limits.hidden), 1.0f);
  floats.request.header.in = WireDType::kF32;
  floats.request.x.f32 = row.data();
  const absl::Status status = Refusal(floats.Encode());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("f32"));
}

TEST_F(ExecutorTest, AnswersEachFrameWithAReadableHeaderAndNoOther) {
  const std::vector<uint8_t> good = TestDispatch(fixture_.limits, 5, {1, 2}).Encode();
  uint64_t unreadable = 0;
  // Each byte of header, parts and entries flipped in turn: an answer or none, and never a crash.
  for (size_t at = 0; at < good.size(); ++at) {
    std::vector<uint8_t> bad = good;
    bad[at] ^= 0xFF;
    const bool readable = DecodeHeader(bad).ok();
    const Frames replies = Handle(bad);
    EXPECT_EQ(replies.size(), readable ? 1u : 0u) << at;
    unreadable += readable ? 0 : 1;
  }
  for (size_t size = 0; size < good.size(); size += 13) {
    EXPECT_TRUE(Handle(std::span(good).first(size)).empty());
    ++unreadable;
  }
  EXPECT_EQ(executor_.stats().unreadable, unreadable);
}

TEST_F(ExecutorTest, ComputesTheSameWhileExpertsComeAndGo) {
  TestDispatch dispatch(fixture_.limits, 7, {1, 2, 3});
  const std::vector<uint8_t> frame = dispatch.Encode();
  const Frames undisturbed = Handle(frame);
  std::atomic<bool> stop = false;
  std::thread loader([&] {
    while (!stop) {
      EXPECT_TRUE(store_.Load(0, 5).ok());
      EXPECT_TRUE(store_.Load(0, 3).ok());
      store_.Retain([](int, int expert) { return expert == 1 || expert == 2; });
    }
  });
  int computed = 0;
  for (int i = 0; i < 200 || computed == 0; ++i) {
    const Frames replies = Handle(frame);
    ASSERT_EQ(replies.size(), 1u);
    if (DecodeHeader(replies[0])->kind == FrameKind::kRefusal) {
      EXPECT_EQ(DecodeRefusal(replies[0]).code(), absl::StatusCode::kNotFound);
    } else {
      EXPECT_EQ(replies, undisturbed);
      ++computed;
    }
  }
  stop = true;
  loader.join();
  EXPECT_GT(computed, 0);
}

}  // namespace
}  // namespace moepool
