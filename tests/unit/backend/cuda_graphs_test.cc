// Recordings of the CUDA backend: which are replayed, which are made anew, and which are dropped.
#include "common/backend/cuda/cuda_graphs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/backend/cuda/cuda_backend.h"
#include "tests/support/simt/device_of_kernels.h"
#include "tests/support/simt/emulated_device.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

constexpr size_t kBytes = 64;

// A context whose segments copy from one place of the device to another.
class CudaGraphsTest : public ::testing::Test {
 protected:
  explicit CudaGraphsTest(const EmulatedDeviceOptions& options = {}, size_t most_pieces = 100)
      : device_(options),
        context_(&device_),
        graphs_(&context_, most_pieces),
        from_(device_.Allocate(kBytes).value()),
        to_(device_.Allocate(kBytes).value()) {}
  ~CudaGraphsTest() override {
    device_.Free(from_);
    device_.Free(to_);
  }

  enum Way { kQueued, kRecorded, kReplayed, kInVain };
  // As the operations of the trunk use it.
  Way Run(const GraphKey& key, const std::function<void()>& queue) {
    {
      MutexLock lock(&context_.mutex());
      if (graphs_.Launch(key)) return kReplayed;
      if (!graphs_.Begin(key)) {
        queue();
        return kQueued;
      }
    }
    queue();
    {
      MutexLock lock(&context_.mutex());
      if (graphs_.End(key)) return kRecorded;
    }
    queue();
    return kInVain;
  }
  Way Run(const GraphKey& key) {
    return Run(key, [this] { device_.Copy(to_, from_, kBytes); });
  }
  // What a run makes of `value` at from_.
  std::byte Through(const GraphKey& key, std::byte value) {
    std::fill_n(from_, kBytes, value);
    Run(key);
    device_.Synchronize();
    return to_[kBytes - 1];
  }

  EmulatedDevice device_;
  CudaContext context_;
  CudaGraphs graphs_;
  std::byte* const from_;
  std::byte* const to_;
};

TEST_F(CudaGraphsTest, WhatComesTwiceIsRecordedAndThenReplayed) {
  const GraphKey key = {.number = 1, .rows = 2};
  EXPECT_EQ(Run(key), kQueued);
  EXPECT_EQ(Run(key), kRecorded);
  EXPECT_EQ(Run(key), kReplayed);
  EXPECT_EQ(graphs_.stats().recorded, 1u);
  EXPECT_EQ(graphs_.stats().replayed, 1u);
  // With what lies in its memory then.
  EXPECT_EQ(Through(key, std::byte{7}), std::byte{7});
  EXPECT_EQ(Through(key, std::byte{9}), std::byte{9});
  EXPECT_EQ(graphs_.stats().replayed, 3u);
}

// Both are done once, where they stand in the order of the stream.
TEST_F(CudaGraphsTest, WhatIsRecordedIsDoneOnce) {
  const GraphKey key = {.number = 1, .rows = 2};
  for (const Way way : {kQueued, kRecorded, kReplayed}) {
    std::byte* const other = device_.Allocate(kBytes).value();
    std::fill_n(from_, kBytes, std::byte{1});
    EXPECT_EQ(Run(key), way);
    device_.Copy(other, to_, kBytes);
    device_.Zero(to_, kBytes);
    device_.Synchronize();
    EXPECT_EQ(other[0], std::byte{1});
    EXPECT_EQ(to_[0], std::byte{0});
    device_.Free(other);
  }
}

TEST_F(CudaGraphsTest, EachPartOfTheKeyTellsSegmentsApart) {
  uint8_t fault = 0;
  const GraphKey key = {.number = 1, .rows = 2};
  std::vector<GraphKey> keys(11, key);
  keys[1].number = 2;
  keys[2].rows = 3;
  keys[3].first_row = 1;
  keys[4].micro_batch = 1;
  keys[5].faults = &fault;
  keys[6].attention.narrow = 1;
  keys[7].attention.narrow_queries = 1;
  keys[8].attention.wide = 1;
  keys[9].attention.merged = 1;
  keys[10].attention.partials = 1;
  for (const Way way : {kQueued, kRecorded, kReplayed}) {
    for (const GraphKey& each : keys) EXPECT_EQ(Run(each), way);
  }
}

TEST_F(CudaGraphsTest, MemoryThatIsGivenUpDropsAll) {
  const GraphKey key = {.number = 1, .rows = 2};
  DeviceScratch scratch(&context_);
  scratch.Get(100);
  for (const Way way : {kQueued, kRecorded, kReplayed}) EXPECT_EQ(Run(key), way);
  scratch.Get(50);
  EXPECT_EQ(Run(key), kReplayed);
  scratch.Get(101);
  for (const Way way : {kQueued, kRecorded, kReplayed}) EXPECT_EQ(Run(key), way);
}

TEST_F(CudaGraphsTest, MemoryIsNotTakenWhileItRecords) {
  const GraphKey key = {.number = 1, .rows = 2};
  DeviceScratch scratch(&context_);
  const auto queue = [&] { device_.Copy(scratch.Get(kBytes), from_, kBytes); };
  EXPECT_EQ(Run(key), kQueued);  // which has not needed it
  EXPECT_EQ(Run(key, queue), kInVain);
  EXPECT_EQ(Run(key, queue), kRecorded);
  std::fill_n(from_, kBytes, std::byte{5});
  EXPECT_EQ(Run(key, queue), kReplayed);
  device_.Synchronize();
  EXPECT_EQ(scratch.Get(kBytes)[0], std::byte{5});
}

TEST_F(CudaGraphsTest, WhatChangesOnTheWaySpoilsARecording) {
  const GraphKey key = {.number = 1, .rows = 2};
  auto scratch = std::make_unique<DeviceScratch>(&context_);
  scratch->Get(100);
  std::vector<uint8_t> faults(2);
  EXPECT_EQ(Run(key), kQueued);
  const auto in_another_thread = [&](const std::function<void()>& work) {
    std::thread([&] {
      MutexLock lock(&context_.mutex());
      work();
    }).join();
  };
  EXPECT_EQ(Run(key, [&] { in_another_thread([&] { context_.Settle(); }); }), kInVain);
  EXPECT_EQ(Run(key, [&] { context_.Report(faults); }), kInVain);
  EXPECT_EQ(Run(key, [&] { in_another_thread([&] { scratch.reset(); }); }), kInVain);
  EXPECT_EQ(Run(key), kQueued);  // all have been dropped
  EXPECT_EQ(Run(key), kRecorded);
}

TEST_F(CudaGraphsTest, OtherThreadsWorkIsNotRecorded) {
  const GraphKey key = {.number = 1, .rows = 2};
  EXPECT_EQ(Run(key), kQueued);
  const auto queue = [&] {
    device_.Copy(to_, from_, kBytes);
    std::thread([&] {
      device_.Zero(to_, kBytes);
      device_.Synchronize();
    }).join();
  };
  std::fill_n(from_, kBytes, std::byte{3});
  EXPECT_EQ(Run(key, queue), kRecorded);
  EXPECT_EQ(to_[0], std::byte{0});
  EXPECT_EQ(Run(key), kReplayed);
  device_.Synchronize();
  EXPECT_EQ(to_[0], std::byte{3});
}

TEST_F(CudaGraphsTest, SegmentsOfManyRowsAreNotForIt) {
  EXPECT_TRUE(graphs_.Takes(1));
  EXPECT_TRUE(graphs_.Takes(CudaGraphs::kMostRows));
  EXPECT_FALSE(graphs_.Takes(CudaGraphs::kMostRows + 1));
  EXPECT_FALSE(graphs_.Takes(0));
}

// Faults of recorded work are brought over after each replay, to those that are given then.
TEST_F(CudaGraphsTest, FaultsOfFewRowsHaveTheirPlacesInTurn) {
  std::vector<uint8_t> first(3), second(CudaContext::kFaultRows), many(CudaContext::kFaultRows + 1);
  std::set<DeviceFaults> places;
  for (int round = 0; round < 3; ++round) {
    context_.Stage(1000 * static_cast<size_t>(round + 1));  // what else is staged does not matter
    const DeviceFaults place = context_.Report(first);
    places.insert(place);
    places.insert(context_.Report(second));
    EXPECT_EQ(context_.Report(first), place);
    context_.Report(many)[CudaContext::kFaultRows] = 1;
    place[1] = 1;
    context_.Settle();
    EXPECT_EQ(first, (std::vector<uint8_t>{0, 1, 0}));
    EXPECT_EQ(many.back(), 1);
    std::fill(first.begin(), first.end(), 0);
    EXPECT_EQ(context_.Report(first), place);
    EXPECT_EQ(place[1], 0);
    context_.Settle();
    EXPECT_EQ(first[1], 0);
  }
  EXPECT_EQ(places.size(), 2u);
}

class FewCudaGraphsTest : public CudaGraphsTest {
 protected:
  FewCudaGraphsTest() : CudaGraphsTest({}, 7) {}
};

// An entry counts as a piece beside those of its graph, here one.
TEST_F(FewCudaGraphsTest, TheLeastRecentlyUsedGoFirst) {
  const auto key = [](uint64_t number) { return GraphKey{.number = number, .rows = 1}; };
  for (const uint64_t number : {1, 2, 3}) {
    EXPECT_EQ(Run(key(number)), kQueued);
    EXPECT_EQ(Run(key(number)), kRecorded);
  }
  EXPECT_EQ(Run(key(1)), kReplayed);
  EXPECT_EQ(Run(key(4)), kQueued);
  EXPECT_EQ(Run(key(4)), kRecorded);
  EXPECT_EQ(Run(key(1)), kReplayed);
  EXPECT_EQ(Run(key(3)), kReplayed);
  EXPECT_EQ(Run(key(4)), kReplayed);
  EXPECT_EQ(Run(key(2)), kQueued);
  // One that is larger than all may be is not kept, and done all the same.
  const auto many = [&] {
    for (int i = 0; i < 8; ++i) device_.Copy(to_, from_, kBytes);
  };
  EXPECT_EQ(Run(key(5), many), kQueued);
  std::fill_n(from_, kBytes, std::byte{6});
  EXPECT_EQ(Run(key(5), many), kRecorded);
  device_.Synchronize();
  EXPECT_EQ(to_[0], std::byte{6});
  EXPECT_EQ(Run(key(5), many), kQueued);
}

class NoCudaGraphsTest : public CudaGraphsTest {
 protected:
  NoCudaGraphsTest() : CudaGraphsTest({}, 0) {}
};
TEST_F(NoCudaGraphsTest, TakesNone) { EXPECT_FALSE(graphs_.Takes(1)); }

class UnrecordingDeviceTest : public CudaGraphsTest {
 protected:
  UnrecordingDeviceTest() : CudaGraphsTest({.records = false}) {}
};
TEST_F(UnrecordingDeviceTest, QueuesAllItself) {
  const GraphKey key = {.number = 1, .rows = 1};
  EXPECT_EQ(Run(key), kQueued);
  EXPECT_TRUE(graphs_.Takes(1));
  EXPECT_EQ(Through(key, std::byte{8}), std::byte{8});
  EXPECT_FALSE(graphs_.Takes(1));
}

class FailingRecordingsTest : public CudaGraphsTest {
 protected:
  FailingRecordingsTest() : CudaGraphsTest({.recordings_fail = true}) {}
};
TEST_F(FailingRecordingsTest, QueueAllAgain) {
  const GraphKey key = {.number = 1, .rows = 1};
  EXPECT_EQ(Run(key), kQueued);
  EXPECT_EQ(Through(key, std::byte{8}), std::byte{8});
  EXPECT_FALSE(graphs_.Takes(1));
  EXPECT_EQ(graphs_.stats().recorded, 0u);
}

// The check at the start replays too.
class ForgetfulDevice final : public DeviceOfKernels {
 public:
  ForgetfulDevice() : DeviceOfKernels(emulated::Kernels()) {}
  absl::StatusOr<std::unique_ptr<DeviceGraph>> EndGraph() override {
    class Graph final : public DeviceGraph {
     public:
      explicit Graph(std::unique_ptr<DeviceGraph> graph) : graph_(std::move(graph)) {}
      void Launch() override {
        if (launches_++ < 2) graph_->Launch();
      }
      size_t pieces() const override { return graph_->pieces(); }

     private:
      const std::unique_ptr<DeviceGraph> graph_;
      int launches_ = 0;
    };
    return std::make_unique<Graph>(DeviceOfKernels::EndGraph().value());
  }
};

TEST(CheckOfGraphsTest, ADeviceThatReplaysOtherwiseIsRefused) {
  EXPECT_TRUE(CudaBackend::Create(std::make_unique<EmulatedDevice>(), {}).ok());
  const absl::Status status = CudaBackend::Create(std::make_unique<ForgetfulDevice>(), {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cuda backend: a segment's"));
  CudaOptions options;
  options.most_graph_pieces = 0;
  EXPECT_TRUE(CudaBackend::Create(std::make_unique<ForgetfulDevice>(), options).ok());
}

}  // namespace
}  // namespace moepool
