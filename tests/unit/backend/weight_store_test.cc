// Where matrices come from: packed the first time, found the next, in memory or mapped, with the same bytes.
#include "common/backend/weight_store.h"

#include <atomic>
#include <cstring>
#include <fstream>

#include "common/base/parallel_status.h"
#include "common/base/status_macros.h"
#include "common/model/expert_tensors.h"
#include "common/model/gguf_source.h"
#include "common/model/synthetic.h"
#include "gmock/gmock.h"
#include "tests/unit/model/test_files.h"
#include "tests/unit/weights/weights_testing.h"

namespace moepool {
namespace {

using ::testing::SizeIs;

constexpr int kExperts = 5;

SynthSpec Spec(DType dtype, uint64_t seed = 1) {
  SynthSpec spec;
  spec.hidden = 256;
  spec.ffn = 256;
  spec.experts = kExperts;
  spec.experts_per_token = 2;
  spec.dtype = dtype;
  spec.seed = seed;
  return spec;
}

std::unique_ptr<ModelSource> MakeSource(DType dtype, uint64_t seed = 1) {
  return *MakeSyntheticSource(Spec(dtype, seed));
}

// Gate and down of every expert of layer 1; `blind`: without a look at the model's own bytes.
absl::StatusOr<std::vector<PackedMatrix>> LoadExperts(WeightStore* store, const ModelSource& source,
                                                      int threads, bool blind = false) {
  std::vector<PackedMatrix> matrices(2 * kExperts);
  const absl::Status status = ParallelStatus(kExperts, threads, [&](int64_t e) -> absl::Status {
    MOEPOOL_ASSIGN_OR_RETURN(ExpertTensors tensors, OpenExpert(source, 1, static_cast<int>(e)));
    if (blind) tensors.gate.data = tensors.down.data = nullptr;
    const size_t at = 2 * static_cast<size_t>(e);
    MOEPOOL_ASSIGN_OR_RETURN(matrices[at], store->Load(tensors.gate, tensors.gate_key));
    MOEPOOL_ASSIGN_OR_RETURN(matrices[at + 1], store->Load(tensors.down, tensors.down_key));
    return absl::OkStatus();
  });
  store->KeepLoaded([] { return false; });
  if (!status.ok()) return status;
  return matrices;
}

void ExpectPacked(const ModelSource& source, const std::vector<PackedMatrix>& matrices) {
  for (int e = 0; e < kExperts; ++e) {
    const ExpertTensors tensors = *OpenExpert(source, 1, e);
    for (const auto& [view, m] : {std::pair(tensors.gate, matrices[2 * static_cast<size_t>(e)]),
                                  std::pair(tensors.down, matrices[2 * static_cast<size_t>(e) + 1])}) {
      const PackedMatrix expected = *Pack(view);
      ASSERT_EQ(m.bytes(), expected.bytes());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(m.weights.data) % 64, 0u);
      EXPECT_EQ(std::memcmp(m.weights.data, expected.weights.data, m.bytes()), 0) << "expert " << e;
    }
  }
}

class WeightStoreTest : public ::testing::Test {
 protected:
  WeightOptions Options(bool map = false) const {
    WeightOptions options;
    options.map = map;
    options.cache_directory = temp_.Options().directory;
    return options;
  }
  TempWeights temp_;
};

TEST_F(WeightStoreTest, WithoutACacheItPacksOnAnyNumberOfThreads) {
  for (const DType dtype : {DType::kQ4_0, DType::kQ6_K, DType::kF16}) {
    const auto source = MakeSource(dtype);
    for (const int threads : {1, 4}) {
      WeightStore store(WeightOptions{});
      const auto matrices = LoadExperts(&store, *source, threads);
      ASSERT_TRUE(matrices.ok()) << matrices.status();
      ExpectPacked(*source, *matrices);
    }
  }
}

TEST_F(WeightStoreTest, TheSecondStartReadsOrMapsWhatTheFirstPacked) {
  const auto source = MakeSource(DType::kQ4_0);
  {
    WeightStore first(Options());
    const auto matrices = LoadExperts(&first, *source, 3);
    ASSERT_TRUE(matrices.ok()) << matrices.status();
    first.AwaitKept();
    ExpectPacked(*source, *matrices);
  }
  ASSERT_THAT(temp_.Files(), SizeIs(1));
  for (const bool map : {false, true}) {
    WeightStore second(Options(map));
    const auto matrices = LoadExperts(&second, *source, 3, /*blind=*/true);
    ASSERT_TRUE(matrices.ok()) << matrices.status();
    ExpectPacked(*source, *matrices);
  }
  EXPECT_THAT(temp_.Files(), SizeIs(1));
  WeightStore other(Options());
  const auto other_source = MakeSource(DType::kQ4_0, /*seed=*/2);
  const auto matrices = LoadExperts(&other, *other_source, 1);
  ASSERT_TRUE(matrices.ok()) << matrices.status();
  ExpectPacked(*other_source, *matrices);
}

TEST_F(WeightStoreTest, MappingBuildsTheFileFirst) {
  const auto source = MakeSource(DType::kQ5_K);
  WeightStore store(Options(/*map=*/true));
  const auto matrices = LoadExperts(&store, *source, 2);
  ASSERT_TRUE(matrices.ok()) << matrices.status();
  ASSERT_THAT(temp_.Files(), SizeIs(1));
  ExpectPacked(*source, *matrices);
  std::ifstream maps("/proc/self/maps");
  const std::string all(std::istreambuf_iterator<char>(maps), {});
  EXPECT_NE(all.find(temp_.Files().at(0)), std::string::npos)
      << "the file is mapped in the place of the memory";
}

TEST_F(WeightStoreTest, MappingThatIsStoppedIsDoneByTheNextCall) {
  const auto source = MakeSource(DType::kQ5_K);
  // Stopped before anything is written, at the first pieces of a file, and not at all.
  for (int allowed = 0; temp_.Files().empty(); ++allowed) {
    ASSERT_LT(allowed, 100);
    WeightStore store(Options(/*map=*/true));
    std::vector<PackedMatrix> matrices;
    for (int e = 0; e < kExperts; ++e) {
      const ExpertTensors tensors = *OpenExpert(*source, 1, e);
      matrices.push_back(*store.Load(tensors.gate, tensors.gate_key));
      matrices.push_back(*store.Load(tensors.down, tensors.down_key));
    }
    int asked = 0;
    store.KeepLoaded([&] { return asked++ >= allowed; });
    ExpectPacked(*source, matrices);
    if (!temp_.Files().empty()) break;
    EXPECT_EQ(asked, allowed + 1) << "it goes on after it was stopped";
    EXPECT_THAT(temp_.Files(""), SizeIs(0));
    store.KeepLoaded([] { return false; });
    ASSERT_THAT(temp_.Files(), SizeIs(1));
    ExpectPacked(*source, matrices);
    std::filesystem::remove(temp_.Files().at(0));
  }
}

TEST_F(WeightStoreTest, WhatIsDamagedIsPackedAgainAndWrittenAnew) {
  const auto source = MakeSource(DType::kQ8_0);
  {
    WeightStore first(Options());
    ASSERT_TRUE(LoadExperts(&first, *source, 1).ok());
    first.AwaitKept();
  }
  const std::string file = temp_.Files().at(0);
  for (const bool map : {false, true}) {
    const std::string intact = ReadFile(file);
    std::string damaged = intact;
    damaged[1000] ^= 0x55;
    WriteFile(file, damaged);
    WeightStore second(Options(map));
    // One thread, which meets the damage first; another might have read an intact matrix from the file
    // before.
    const auto matrices = LoadExperts(&second, *source, 1);
    ASSERT_TRUE(matrices.ok()) << matrices.status();
    second.AwaitKept();
    ExpectPacked(*source, *matrices);
    EXPECT_EQ(ReadFile(file), intact);
  }
  WeightStore third(Options());
  const auto matrices = LoadExperts(&third, *source, 1, /*blind=*/true);
  ASSERT_TRUE(matrices.ok()) << matrices.status();
  ExpectPacked(*source, *matrices);
}

TEST_F(WeightStoreTest, ADirectoryThatCannotBeUsedIsDoneWithout) {
  WeightOptions options;
  options.cache_directory = "/dev/null/weights";
  const auto source = MakeSource(DType::kQ8_0);
  for (const bool map : {false, true}) {
    options.map = map;
    WeightStore store(options);
    const auto matrices = LoadExperts(&store, *source, 2);
    ASSERT_TRUE(matrices.ok()) << matrices.status();
    ExpectPacked(*source, *matrices);
  }
}

TEST_F(WeightStoreTest, ALimitThatIsTooSmallKeepsNothing) {
  WeightOptions options = Options();
  options.cache_limit_bytes = 1000;
  WeightStore store(options);
  const auto source = MakeSource(DType::kQ8_0);
  const auto matrices = LoadExperts(&store, *source, 2);
  ASSERT_TRUE(matrices.ok()) << matrices.status();
  store.AwaitKept();
  ExpectPacked(*source, *matrices);
  EXPECT_THAT(temp_.Files(), SizeIs(0));
}

TEST_F(WeightStoreTest, NoFileStaysOpen) {
  const auto source = MakeSource(DType::kQ8_0);
  const auto open_files = [this] {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;  // the iterator's own
      const std::string path = std::filesystem::read_symlink(entry.path(), gone).string();
      if (path.starts_with(temp_.path()) && path.find(".weights") != std::string::npos) ++count;
    }
    return count;
  };
  for (const bool map : {false, false, true}) {
    WeightStore store(Options(map));
    const auto matrices = LoadExperts(&store, *source, 2);
    ASSERT_TRUE(matrices.ok()) << matrices.status();
    store.AwaitKept();
    EXPECT_EQ(open_files(), 0);
  }
}

TEST_F(WeightStoreTest, WhatIsDroppedWhileItIsWrittenIsWrittenWhole) {
  const auto source = MakeSource(DType::kQ4_K);
  {
    WeightStore first(Options());
    auto matrices = LoadExperts(&first, *source, 2);
    ASSERT_TRUE(matrices.ok()) << matrices.status();
    matrices->clear();
    first.AwaitKept();
  }
  WeightStore second(Options());
  const auto matrices = LoadExperts(&second, *source, 1, /*blind=*/true);
  ASSERT_TRUE(matrices.ok()) << matrices.status();
  ExpectPacked(*source, *matrices);
}

// Loads one matrix and lets go of it, as who has copied it does.
absl::Status LoadCopied(WeightStore* store, const ModelSource& source, int matrix, bool blind) {
  ExpertTensors tensors = *OpenExpert(source, 1, matrix / 2);
  if (blind) tensors.gate.data = tensors.down.data = nullptr;
  absl::StatusOr<PackedMatrix> m = matrix % 2 == 0 ? store->Load(tensors.gate, tensors.gate_key)
                                                   : store->Load(tensors.down, tensors.down_key);
  return m.status();
}

TEST_F(WeightStoreTest, WhatIsCopiedElsewhereAndLetGoIsKept) {
  const auto source = MakeSource(DType::kQ4_1);
  {
    WeightStore first(Options(), CopiedWeights{});
    for (int m = 0; m < 2 * kExperts; ++m) ASSERT_EQ(LoadCopied(&first, *source, m, false), absl::OkStatus());
    first.KeepLoaded([] { return false; });
    first.AwaitKept();
  }
  WeightStore second(Options());
  const auto matrices = LoadExperts(&second, *source, 1, /*blind=*/true);
  ASSERT_TRUE(matrices.ok()) << matrices.status();
  ExpectPacked(*source, *matrices);
}

TEST_F(WeightStoreTest, WhatIsCopiedElsewhereIsWrittenInTheMiddleOfABatch) {
  const auto source = MakeSource(DType::kQ8_0);
  WeightStore store(Options(), CopiedWeights{.write_bytes = 1});
  ASSERT_EQ(LoadCopied(&store, *source, 0, false), absl::OkStatus());
  store.AwaitKept();
  EXPECT_THAT(temp_.Files(), SizeIs(1));
  store.KeepLoaded([] { return false; });
  EXPECT_EQ(LoadCopied(&store, *source, 0, /*blind=*/true), absl::OkStatus());
}

TEST_F(WeightStoreTest, ManyThreadsCopyWhileOthersWrite) {
  const auto source = MakeSource(DType::kQ4_0);
  for (const bool blind : {false, true}) {
    WeightStore store(Options(), CopiedWeights{.write_bytes = 1});
    const auto matrices = LoadExperts(&store, *source, 4, blind);
    ASSERT_TRUE(matrices.ok()) << matrices.status();
    ExpectPacked(*source, *matrices);
    store.AwaitKept();
  }
}

TEST_F(WeightStoreTest, MoreThanMayWaitForTheDiskIsLeftToTheNextStart) {
  const auto source = MakeSource(DType::kQ8_0);
  const ExpertTensors tensors = *OpenExpert(*source, 1, 0);
  const uint64_t each = (*Pack(tensors.gate)).bytes();
  ASSERT_EQ((*Pack(tensors.down)).bytes(), each);
  constexpr int kAStart = 3;
  for (int kept = 0; kept < 2 * kExperts; kept += kAStart) {
    WeightStore store(Options(), CopiedWeights{.most_bytes = kAStart * each + each / 2});
    for (int m = 0; m < 2 * kExperts; ++m) {
      ASSERT_EQ(LoadCopied(&store, *source, m, /*blind=*/m < kept), absl::OkStatus());
    }
    store.KeepLoaded([] { return false; });
    store.AwaitKept();
  }
  EXPECT_THAT(temp_.Files(), SizeIs(4));
  // What was written counts no more.
  WeightStore store(Options(), CopiedWeights{.most_bytes = each});
  const auto other = MakeSource(DType::kQ8_0, /*seed=*/2);
  for (int m = 0; m < 3; ++m) {
    ASSERT_EQ(LoadCopied(&store, *other, m, false), absl::OkStatus());
    store.KeepLoaded([] { return false; });
    store.AwaitKept();
    EXPECT_EQ(LoadCopied(&store, *other, m, /*blind=*/true), absl::OkStatus());
  }
}

TEST_F(WeightStoreTest, AFileThatIsWrittenToIsNotKeptAsWhatItWas) {
  const TempDirectory directory;
  const std::string path = directory.File("model.gguf");
  ASSERT_TRUE(WriteSyntheticGguf(Spec(DType::kQ8_0, /*seed=*/2), path).ok());
  const std::string other = ReadFile(path);
  ASSERT_TRUE(WriteSyntheticGguf(Spec(DType::kQ8_0, /*seed=*/1), path).ok());
  const std::string bytes = ReadFile(path);
  ASSERT_EQ(bytes.size(), other.size());
  {
    const std::unique_ptr<ModelSource> source = *OpenGguf(path);
    WeightStore store(Options());
    const ExpertTensors before = *OpenExpert(*source, 1, 0);
    const ExpertTensors after = *OpenExpert(*source, 1, 1);
    const absl::StatusOr<PackedMatrix> kept = store.Load(before.gate, before.gate_key);
    ASSERT_TRUE(kept.ok()) << kept.status();
    Overwrite(path, other);
    EXPECT_EQ(store.Load(after.gate, after.gate_key).status().code(), absl::StatusCode::kDataLoss);
    store.KeepLoaded([] { return false; });
    store.AwaitKept();
    ASSERT_THAT(temp_.Files(), SizeIs(1));
  }
  Overwrite(path, bytes);
  const std::unique_ptr<ModelSource> source = *OpenGguf(path);
  WeightStore later(Options());
  const auto matrices = LoadExperts(&later, *source, 1);
  ASSERT_TRUE(matrices.ok()) << matrices.status();
  ExpectPacked(*source, *matrices);
}

// A model whose file is written to after its digest was first asked for.
class OverwrittenSource final : public ModelSource {
 public:
  explicit OverwrittenSource(std::unique_ptr<ModelSource> before) : before_(std::move(before)) {}
  const ModelConfig& Config() const override { return before_->Config(); }
  const TokenizerSpec& Tokenizer() const override { return before_->Tokenizer(); }
  const std::vector<TensorInfo>& Tensors() const override { return before_->Tensors(); }
  const TensorInfo* Find(std::string_view name) const override { return before_->Find(name); }
  absl::StatusOr<TensorBytes> Range(std::string_view name, uint64_t offset, uint64_t bytes) const override {
    return before_->Range(name, offset, bytes);
  }
  absl::StatusOr<ModelDigest> Digest() const override {
    if (asked_.exchange(true)) return absl::DataLossError("was written to");
    return before_->Digest();
  }

 private:
  const std::unique_ptr<ModelSource> before_;
  mutable std::atomic<bool> asked_ = false;
};

TEST_F(WeightStoreTest, WhatIsWrittenToWhileItIsPackedIsNotKept) {
  const OverwrittenSource source(MakeSource(DType::kQ8_0));
  WeightStore store(Options());
  const ExpertTensors tensors = *OpenExpert(source, 1, 0);
  EXPECT_EQ(store.Load(tensors.gate, tensors.gate_key).status().code(), absl::StatusCode::kDataLoss);
  store.KeepLoaded([] { return false; });
  store.AwaitKept();
  EXPECT_THAT(temp_.Files(), SizeIs(0));
}

}  // namespace
}  // namespace moepool
