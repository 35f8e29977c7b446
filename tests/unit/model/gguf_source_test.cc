// The file behind the model: paths, ranges, what is mapped, what happens when the file changes, and the
// digest.
#include "common/model/gguf_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sstream>

#include "common/model/synthetic.h"
#include "tests/unit/model/test_files.h"

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kExpert[] = "blk.1.ffn_down_exps.weight";

SynthSpec Spec() {
  SynthSpec spec;
  spec.hidden = 128;
  spec.head_dim = 32;
  spec.ffn = 256;
  spec.experts = 8;
  spec.experts_per_token = 2;
  return spec;
}

class GgufSourceTest : public ::testing::Test {
 protected:
  GgufSourceTest() : path_(directory_.File("model.gguf")) {
    EXPECT_TRUE(WriteSyntheticGguf(Spec(), path_).ok());
  }

  // Bytes of `path_` that are mapped, by /proc/self/maps.
  uint64_t MappedBytes() const {
    std::ifstream maps("/proc/self/maps");
    uint64_t total = 0;
    for (std::string line; std::getline(maps, line);) {
      if (line.find(path_) == std::string::npos) continue;
      EXPECT_THAT(line, HasSubstr(" r--p "));
      uint64_t begin = 0;
      uint64_t end = 0;
      char dash;
      std::istringstream(line) >> std::hex >> begin >> dash >> end;
      total += end - begin;
    }
    return total;
  }
  // Files in the digest cache.
  int CachedDigests() const {
    int count = 0;
    std::error_code none;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator(directory_.File("moepool/digests"), none)) {
      ++count;
    }
    return count;
  }

  TempDirectory directory_;
  const std::string path_;
};

TEST_F(GgufSourceTest, PathsThatAreNoFile) {
  const auto error = [](const std::string& path) { return OpenGguf(path).status(); };
  EXPECT_EQ(error(directory_.File("absent")).code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(error(directory_.File("absent")).message()), HasSubstr("/absent'"));
  EXPECT_EQ(error(directory_.File("")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(error(directory_.File("")).message()), HasSubstr("is a directory"));
  EXPECT_EQ(error("/dev/null").code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(mkfifo(directory_.File("fifo").c_str(), 0600), 0);  // must not wait for a writer
  EXPECT_EQ(error(directory_.File("fifo")).code(), absl::StatusCode::kFailedPrecondition);
  WriteFile(directory_.File("empty"), "");
  EXPECT_THAT(std::string(error(directory_.File("empty")).message()), HasSubstr("is empty"));
  WriteFile(directory_.File("text"), "hello, world");
  EXPECT_EQ(error(directory_.File("text")).code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(error(directory_.File("text")).message()),
              AllOf(HasSubstr("/text'"), HasSubstr("'hell'")));
}

TEST_F(GgufSourceTest, RangesStayWithinTheTensor) {
  const std::unique_ptr<ModelSource> source = *OpenGguf(path_);
  const uint64_t bytes = source->Find(kExpert)->bytes;
  EXPECT_EQ(source->Range("absent", 0, 0).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(source->Range(kExpert, 0, bytes).ok());
  EXPECT_EQ(source->Range(kExpert, bytes, 0)->bytes.size(), 0u);
  for (const auto& [offset, count] : std::initializer_list<std::pair<uint64_t, uint64_t>>{
           {0, bytes + 1}, {bytes, 1}, {1, bytes}, {bytes + 1, 0}, {~uint64_t{0}, 2}, {1, ~uint64_t{0}}}) {
    const absl::Status status = source->Range(kExpert, offset, count).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << offset << "+" << count;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(kExpert), HasSubstr(std::to_string(bytes))));
  }
}

TEST_F(GgufSourceTest, HandsOutTheBytesOfTheFile) {
  const std::unique_ptr<ModelSource> source = *OpenGguf(path_);
  const std::unique_ptr<ModelSource> reference = *MakeSyntheticSource(Spec());
  for (const TensorInfo& tensor : source->Tensors()) {
    const uint64_t offset = tensor.bytes / 3;
    const TensorBytes got = *source->Range(tensor.name, offset, tensor.bytes - offset);
    const TensorBytes expected = *reference->Range(tensor.name, offset, tensor.bytes - offset);
    ASSERT_EQ(got.bytes.size(), expected.bytes.size());
    EXPECT_EQ(std::memcmp(got.bytes.data(), expected.bytes.data(), got.bytes.size()), 0) << tensor.name;
  }
}

TEST_F(GgufSourceTest, MapsThePagesOfARangeAloneAndLetsThemGo) {
  std::unique_ptr<ModelSource> source = *OpenGguf(path_);
  EXPECT_EQ(MappedBytes(), 0u);
  ASSERT_TRUE(source->Digest().ok());
  EXPECT_EQ(MappedBytes(), 0u);
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  absl::StatusOr<TensorBytes> range = source->Range(kExpert, 5000, page);
  ASSERT_TRUE(range.ok());
  EXPECT_GE(MappedBytes(), page);
  EXPECT_LE(MappedBytes(), 2 * page);
  source.reset();  // the range outlives the source
  EXPECT_NE(MappedBytes(), 0u);
  range->owner.reset();
  EXPECT_EQ(MappedBytes(), 0u);
}

TEST_F(GgufSourceTest, AFileThatShrinksIsDataLoss) {
  const std::unique_ptr<ModelSource> source = *OpenGguf(path_);
  const auto full = static_cast<off_t>(std::filesystem::file_size(path_));
  ASSERT_EQ(truncate(path_.c_str(), full - 4096), 0);
  const absl::Status status = source->Range("token_embd.weight", 0, 64).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(std::to_string(full)), HasSubstr(std::to_string(full - 4096))));
  EXPECT_EQ(source->Digest().status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(OpenGguf(path_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GgufSourceTest, AFileThatIsWrittenToHasNoDigest) {
  const std::unique_ptr<ModelSource> source = *OpenGguf(path_);
  std::string bytes = ReadFile(path_);
  bytes.push_back('\0');
  WriteFile(path_, bytes);
  EXPECT_EQ(source->Digest().status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CachedDigests(), 0);
}

TEST_F(GgufSourceTest, AFileThatIsWrittenToIsNotReadAsWhatItWas) {
  const std::unique_ptr<ModelSource> source = *OpenGguf(path_);
  ASSERT_TRUE(source->Digest().ok());
  ASSERT_TRUE(source->Range(kExpert, 0, 64).ok());
  SynthSpec other = Spec();
  other.seed = 2;
  ASSERT_TRUE(WriteSyntheticGguf(other, directory_.File("other.gguf")).ok());
  const std::string bytes = ReadFile(directory_.File("other.gguf"));
  ASSERT_EQ(bytes.size(), std::filesystem::file_size(path_));
  Overwrite(path_, bytes);
  for (const absl::Status& status : {source->Digest().status(), source->Range(kExpert, 0, 64).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(path_), HasSubstr("was written to")));
  }
}

TEST_F(GgufSourceTest, DigestFollowsTheContentAndNotThePath) {
  const ModelDigest digest = *(*OpenGguf(path_))->Digest();
  std::filesystem::copy_file(path_, directory_.File("copy.gguf"));
  EXPECT_EQ(*(*OpenGguf(directory_.File("copy.gguf")))->Digest(), digest);
  EXPECT_EQ(*(*MakeSyntheticSource(Spec()))->Digest(), digest);
  SynthSpec renamed = Spec();
  renamed.name = "another name";
  EXPECT_EQ(*(*MakeSyntheticSource(renamed))->Digest(), digest);
}

TEST_F(GgufSourceTest, DigestChangesWithAnyTensorByte) {
  const std::unique_ptr<ModelSource> source = *OpenGguf(path_);
  const ModelDigest digest = *source->Digest();
  const std::string bytes = ReadFile(path_);
  const absl::StatusOr<CheckedModel> model = ParseModel(bytes);
  ASSERT_TRUE(model.ok());
  for (size_t i = 0; i < model->offsets.size(); ++i) {
    const TensorInfo& tensor = model->tensors.tensors()[i];
    for (const uint64_t at : {uint64_t{0}, tensor.bytes / 2, tensor.bytes - 1}) {
      std::string changed = bytes;
      changed[model->offsets[i] + at] ^= 1;
      WriteFile(directory_.File("changed.gguf"), changed);
      EXPECT_NE(*(*OpenGguf(directory_.File("changed.gguf")))->Digest(), digest)
          << tensor.name << " byte " << at;
    }
  }
}

TEST_F(GgufSourceTest, DigestCoversTheConfiguration) {
  const ModelDigest digest = *(*MakeSyntheticSource(Spec()))->Digest();
  const auto differs = [&](auto change) {
    SynthSpec spec = Spec();
    change(&spec);
    EXPECT_NE(*(*MakeSyntheticSource(spec))->Digest(), digest);
  };
  differs([](SynthSpec* s) { s->context = 1024; });
  differs([](SynthSpec* s) { s->rope_base = 50000; });
  differs([](SynthSpec* s) { s->rope_linear_factor = 2; });
  differs([](SynthSpec* s) { s->experts_per_token = 3; });
  differs([](SynthSpec* s) { s->seed = 2; });
}

TEST_F(GgufSourceTest, DigestIsRememberedForThisStateOfTheFile) {
  const ModelDigest digest = *(*OpenGguf(path_))->Digest();
  ASSERT_EQ(CachedDigests(), 1);
  struct stat info;
  ASSERT_EQ(stat(directory_.File("moepool/digests").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  const std::string entry =
      std::filesystem::directory_iterator(directory_.File("moepool/digests"))->path().string();

  std::string planted = ReadFile(entry);
  ASSERT_EQ(planted.size(), 64u);
  planted[0] = planted[0] == '0' ? '1' : '0';
  WriteFile(entry, planted);
  EXPECT_NE(*(*OpenGguf(path_))->Digest(), digest) << "the digest was computed again";

  WriteFile(entry, "no digest");  // is not believed
  EXPECT_EQ(*(*OpenGguf(path_))->Digest(), digest);

  WriteFile(entry, planted);
  std::string bytes = ReadFile(path_);
  WriteFile(path_, bytes);  // the same content, another state
  EXPECT_EQ(*(*OpenGguf(path_))->Digest(), digest);
}

TEST_F(GgufSourceTest, ACacheThatCannotBeWrittenIsDoneWithout) {
  WriteFile(directory_.File("blocked"), "a file where the cache wants a directory");
  setenv("XDG_CACHE_HOME", directory_.File("blocked").c_str(), 1);
  EXPECT_TRUE((*OpenGguf(path_))->Digest().ok());
}

TEST_F(GgufSourceTest, NameFallsBackToTheStem) {
  const std::string bytes = ReadFile(path_);
  std::string unnamed = bytes;
  const size_t at = unnamed.find("general.name");
  unnamed.replace(at, 12, "general.xame");
  WriteFile(directory_.File("My-Model.Q8_0.gguf"), unnamed);
  EXPECT_EQ((*OpenGguf(directory_.File("My-Model.Q8_0.gguf")))->Config().name, "My-Model.Q8_0");
}

}  // namespace
}  // namespace moepool
