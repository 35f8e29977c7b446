// Files of kept weights: what is said of one that is damaged, and what is believed of its trailer.
#include "common/weights/weight_segment.h"

#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "common/weights/segment_name.h"
#include "gmock/gmock.h"
#include "tests/unit/weights/weights_testing.h"

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kTrailerBytes = 80;
// Where it has its fields.
constexpr size_t kImageBytesAt = 48;
constexpr size_t kIndexBytesAt = 56;
constexpr size_t kEntriesAt = 64;

class WeightSegmentTest : public ::testing::Test {
 protected:
  WeightSegmentTest() : directory_(*OpenPrivateDirectory(temp_.Options().directory)) {
    FilledChunk filled({"a", "b"});
    const std::vector<WeightEntry> entries = *filled.chunk->Freeze();
    name_ = SegmentName(KindOf(1), entries);
    EXPECT_TRUE(
        WriteSegment(directory_.get(), name_, KindOf(1), *filled.chunk, entries, [] { return false; }).ok());
    std::ifstream in(Path(), std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
  }
  std::string Path() const { return temp_.Options().directory + "/" + name_; }
  void Write(const std::string& bytes) const {
    std::ofstream(Path(), std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  absl::StatusOr<std::shared_ptr<WeightSegment>> Open(uint8_t model = 1) const {
    return WeightSegment::Open(directory_.get(), name_, KindOf(model));
  }

  TempWeights temp_;
  const UniqueFd directory_;
  std::string name_;
  std::string bytes_;
};

TEST_F(WeightSegmentTest, SaysWhatIsDamagedAndWithWhichValues) {
  const auto expect = [this](const absl::Status& status, absl::StatusCode code, const std::string& got,
                             const std::string& expected) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(name_), HasSubstr(got), HasSubstr(expected)));
  };
  ASSERT_TRUE(Open().ok()) << Open().status();
  expect(Open(/*model=*/2).status(), absl::StatusCode::kFailedPrecondition, SegmentPrefix(KindOf(1)),
         SegmentPrefix(KindOf(2)));
  Write("short");
  expect(Open().status(), absl::StatusCode::kDataLoss, "5 bytes", std::to_string(kTrailerBytes));
  Write(bytes_ + "x");
  expect(Open().status(), absl::StatusCode::kDataLoss, "trailer",
         std::to_string(bytes_.size() + 1 - kTrailerBytes));
  Write(bytes_.substr(1));
  expect(Open().status(), absl::StatusCode::kDataLoss,
         std::to_string(bytes_.size() - 1 - kTrailerBytes) + " bytes", "expected");

  Write(bytes_);
  const auto segment = Open();
  ASSERT_TRUE(segment.ok());
  const std::vector<SegmentEntry> entries = (*segment)->TakeEntries();
  ASSERT_EQ(entries.size(), 2u);
  const SegmentEntry& b = entries[1];
  std::string damaged = bytes_;
  damaged[b.offset + 5] ^= 1;
  Write(damaged);
  std::vector<std::byte> read(b.bytes);
  for (const absl::Status& status : {(*segment)->Read(b, read.data()), (*segment)->Map(b).status()}) {
    expect(status, absl::StatusCode::kDataLoss,
           "b, " + std::to_string(b.bytes) + " bytes at offset " + std::to_string(b.offset), "expected");
  }
  ASSERT_EQ(truncate(Path().c_str(), static_cast<off_t>(b.offset + 100)), 0);
  expect((*segment)->Read(b, read.data()), absl::StatusCode::kDataLoss,
         "ends at " + std::to_string(b.offset + 100), std::to_string(b.bytes - 100));
}

TEST_F(WeightSegmentTest, ReadsNoIndexThatItsEntriesCannotFill) {
  // Files that are all index: what is refused for its size says how much there may be, what is read fails its
  // checksum.
  const auto open = [this](uint64_t index_bytes, uint64_t entries) {
    std::string trailer = bytes_.substr(bytes_.size() - kTrailerBytes);
    const uint64_t image_bytes = 0;
    std::memcpy(trailer.data() + kImageBytesAt, &image_bytes, sizeof image_bytes);
    std::memcpy(trailer.data() + kIndexBytesAt, &index_bytes, sizeof index_bytes);
    std::memcpy(trailer.data() + kEntriesAt, &entries, sizeof entries);
    Write("");
    EXPECT_EQ(truncate(Path().c_str(), static_cast<off_t>(index_bytes)), 0);
    std::ofstream(Path(), std::ios::binary | std::ios::app) << trailer;
    const absl::Status status = Open().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    return std::string(status.message());
  };
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  EXPECT_THAT(open(uint64_t{1} << 40, uint64_t{1} << 33), HasSubstr(std::to_string(64 * kMiB)));
  EXPECT_THAT(open(64 * kMiB + 1, kMiB), HasSubstr(std::to_string(64 * kMiB)));
  EXPECT_THAT(open(kMiB, kMiB / 32 + 1), HasSubstr("an entry"));
  EXPECT_THAT(open(kMiB, kMiB / (32 + 4096)), HasSubstr("an entry"));
  EXPECT_THAT(open(kMiB, uint64_t{1} << 63), HasSubstr("an entry"));
  EXPECT_THAT(open(kMiB, kMiB / (32 + 4096) + 1), HasSubstr("checksum"));
}

TEST_F(WeightSegmentTest, WritesNoKeyThatItWouldNotRead) {
  FilledChunk filled({std::string(4097, 'k')});
  const std::vector<WeightEntry> entries = *filled.chunk->Freeze();
  const absl::Status status =
      WriteSegment(directory_.get(), SegmentName(KindOf(1), entries), KindOf(1), *filled.chunk, entries, [] {
        return false;
      }).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("4097"), HasSubstr("4096")));
  EXPECT_EQ(temp_.Files("").size(), 1u);
}

}  // namespace
}  // namespace moepool
