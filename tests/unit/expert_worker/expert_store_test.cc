#include "expert_worker/expert_store.h"

#include <atomic>
#include <map>
#include <set>
#include <string>
#include <thread>

#include "common/backend/packed_experts.h"
#include "expert_worker/assignment_loader.h"
#include "gmock/gmock.h"
#include "tests/unit/expert_worker/worker_testing.h"
#include "tests/unit/weights/weights_testing.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ExpertStoreTest, LoadsHoldsAndDrops) {
  WorkerFixture fixture;
  ExpertStore store(fixture.source.get(), fixture.backend.get(), 0);
  EXPECT_EQ(store.bytes(), 0u);
  ASSERT_TRUE(store.Load(1, 3).ok());
  ASSERT_TRUE(store.Load(0, 5).ok());
  const uint64_t bytes = store.bytes();
  EXPECT_GT(bytes, 0u);
  ASSERT_TRUE(store.Load(1, 3).ok());
  EXPECT_EQ(store.bytes(), bytes) << "loaded twice";
  EXPECT_THAT(store.Held(), ElementsAre(ExpertRef{0, 5}, ExpertRef{1, 3}));
  const std::shared_ptr<const LayerTable> before = store.Layer(1);
  store.Retain([](int layer, int) { return layer == 0; });
  EXPECT_THAT(store.Held(), ElementsAre(ExpertRef{0, 5}));
  EXPECT_LT(store.bytes(), bytes);
  EXPECT_EQ(store.Layer(1)->experts[3], nullptr);
  EXPECT_EQ(before->experts[3]->gate->rows(), 128) << "who holds the old table keeps the expert";
  store.Retain([](int, int) { return false; });
  EXPECT_EQ(store.bytes(), 0u);
}

TEST(ExpertStoreTest, RefusesWhatTheModelLacks) {
  WorkerFixture fixture;
  ExpertStore store(fixture.source.get(), fixture.backend.get(), 0);
  for (const auto& [layer, expert] : {std::pair(2, 0), std::pair(-1, 0), std::pair(0, 8), std::pair(0, -1)}) {
    EXPECT_EQ(store.Load(layer, expert).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(ExpertStoreTest, KeepsItsMemoryLimitAndNamesBothValues) {
  WorkerFixture fixture;
  ExpertStore probe(fixture.source.get(), fixture.backend.get(), 0);
  ASSERT_TRUE(probe.Load(0, 0).ok());
  const uint64_t one = probe.bytes();
  const uint64_t limit = 2 * one + one / 2;
  ExpertStore store(fixture.source.get(), fixture.backend.get(), limit);
  ASSERT_TRUE(store.Load(0, 0).ok());
  ASSERT_TRUE(store.Load(0, 1).ok());
  const absl::Status status = store.Load(0, 2);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::to_string(limit)));
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::to_string(store.bytes())));
  EXPECT_LE(store.bytes(), limit);
  EXPECT_FALSE(store.Holds(0, 2));
  store.Retain([](int, int expert) { return expert == 1; });
  EXPECT_TRUE(store.Load(0, 2).ok());
}

TEST(ExpertStoreTest, ADenseModelIsSixteenSlices) {
  WorkerFixture fixture(/*experts=*/0);
  ExpertStore store(fixture.source.get(), fixture.backend.get(), 0);
  EXPECT_EQ(store.experts(), kDenseSlices);
  int64_t rows = 0;
  for (int slice = 0; slice < kDenseSlices; ++slice) {
    ASSERT_TRUE(store.Load(0, slice).ok());
    const ExpertWeights* weights = store.Layer(0)->experts[slice];
    ASSERT_NE(weights, nullptr);
    if (weights->gate != nullptr) rows += weights->gate->rows();
  }
  EXPECT_EQ(rows, fixture.source->Config().ffn);
}

TEST(ExpertStoreTest, WritesNoFilesToMapOnceItIsStopped) {
  const TempWeights temp;
  const WorkerFixture fixture;
  BackendOptions options;
  options.backend = "cpu";
  options.threads = 1;
  options.weights.map = true;
  options.weights.cache_directory = temp.Options().directory;
  const std::unique_ptr<Backend> backend = *MakeBackend(options);
  ExpertStore store(fixture.source.get(), backend.get(), 0);
  const std::vector<ExpertRef> experts = {{0, 1}, {1, 6}};
  const auto all_held = [&] { return store.Held().size() == experts.size(); };
  EXPECT_TRUE(store.LoadAll(experts, /*threads=*/1, all_held).ok());
  EXPECT_EQ(store.Held().size(), 2u);
  EXPECT_EQ(temp.Files("").size(), 0u);
  EXPECT_TRUE(store.LoadAll({}, /*threads=*/1, [] { return false; }).ok());
  EXPECT_EQ(temp.Files().size(), 1u) << "left to the next batch";
}

// What a loader said, and waiting for it.
class Words {
 public:
  AssignmentLoader::Done Sink() {
    return [this](uint64_t epoch, const absl::Status& status) {
      MutexLock lock(&mutex_);
      said_[epoch] = status;
      changed_.NotifyAll();
    };
  }
  absl::Status Await(uint64_t epoch) {
    MutexLock lock(&mutex_);
    while (!said_.contains(epoch)) changed_.Wait(&mutex_);
    return said_[epoch];
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::map<uint64_t, absl::Status> said_;
};

TEST(AssignmentLoaderTest, LoadsKeepsAndReleases) {
  WorkerFixture fixture;
  ExpertStore store(fixture.source.get(), fixture.backend.get(), 0);
  Words words;
  AssignmentLoader loader(&store, /*threads=*/3, words.Sink());
  loader.Release(0);  // nothing was assigned
  loader.Assign(5, {{0, 1}, {1, 1}});
  EXPECT_TRUE(words.Await(5).ok());
  loader.Assign(6, {{0, 1}, {0, 2}});
  EXPECT_TRUE(words.Await(6).ok());
  EXPECT_THAT(store.Held(), ElementsAre(ExpertRef{0, 1}, ExpertRef{0, 2}, ExpertRef{1, 1}));
  loader.Release(5);  // superseded
  EXPECT_EQ(store.Held().size(), 3u);
  loader.Release(6);
  EXPECT_THAT(store.Held(), ElementsAre(ExpertRef{0, 1}, ExpertRef{0, 2}));
  loader.Cancel();
  loader.Release(6);
  loader.Release(0);
  EXPECT_EQ(store.Held().size(), 2u) << "a cancelled assignment releases nothing";
  loader.Assign(1, {});
  EXPECT_TRUE(words.Await(1).ok()) << "epochs start anew with another router";
}

// What the router reckons with, so that a worker is assigned no more than its limit lets it load.
TEST(PackedExpertBytesTest, AreWhatAWorkerHolds) {
  for (const DType dtype :
       {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
    for (const int experts : {6, 0}) {
      SynthSpec spec;
      spec.experts = experts;
      spec.experts_per_token = experts / 3;
      spec.hidden = 256;
      spec.ffn = 768;
      spec.dtype = dtype;
      const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
      const absl::StatusOr<std::vector<uint64_t>> bytes = PackedExpertBytes(*source);
      ASSERT_TRUE(bytes.ok()) << bytes.status();
      const ModelConfig& config = source->Config();
      ASSERT_EQ(bytes->size(), static_cast<size_t>(config.layers) * config.experts);
      const WorkerFixture fixture;
      ExpertStore store(source.get(), fixture.backend.get(), /*memory_limit_bytes=*/0);
      for (int expert : {0, config.experts - 1}) {
        const uint64_t before = store.bytes();
        ASSERT_TRUE(store.Load(1, expert).ok());
        EXPECT_EQ(store.bytes() - before, (*bytes)[static_cast<size_t>(config.experts + expert)])
            << Info(dtype).name << ", expert " << expert << " of " << config.experts;
      }
    }
  }
}

TEST(OfferedMemoryTest, IsTheLimitAndWhatFitsTheGpu) {
  EXPECT_EQ(OfferedMemory(0, {}), 0u);
  EXPECT_EQ(OfferedMemory(7, {}), 7u);
  EXPECT_EQ(OfferedMemory(0, {"0000:01:00.0", 1600}), 1500u);
  EXPECT_EQ(OfferedMemory(1499, {"0000:01:00.0", 1600}), 1499u);
  EXPECT_EQ(OfferedMemory(4000, {"0000:01:00.0", 1600}), 1500u);
}

TEST(AssignmentLoaderTest, TellsWhyItFailed) {
  WorkerFixture fixture;
  ExpertStore store(fixture.source.get(), fixture.backend.get(), /*memory_limit_bytes=*/10);
  Words words;
  AssignmentLoader loader(&store, /*threads=*/3, words.Sink());
  loader.Assign(1, {{0, 0}});
  EXPECT_EQ(words.Await(1).code(), absl::StatusCode::kResourceExhausted);
  loader.Assign(2, {{9, 0}});
  EXPECT_EQ(words.Await(2).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moepool
