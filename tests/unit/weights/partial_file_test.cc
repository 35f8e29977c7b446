// Partial files: writers of the same segment do not meet, and the dead leave nothing.
#include "common/weights/partial_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/weights/segment_name.h"
#include "gmock/gmock.h"
#include "tests/unit/weights/weights_testing.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class PartialFileTest : public ::testing::Test {
 protected:
  PartialFileTest() : directory_(*OpenPrivateDirectory(temp_.Options().directory)) {}
  std::string Path(const std::string& name) const { return temp_.Options().directory + "/" + name; }

  TempWeights temp_;
  const UniqueFd directory_;
  const std::string segment_ = SegmentName(KindOf(1), {});
};

TEST_F(PartialFileTest, AnotherWritersIsNeitherCutShortNorShared) {
  uint64_t next = 0;
  const auto number = [&next] { return next++ / 2; };  // 0 0 1 1 2: as two writers that count alike
  auto first = PartialFile::Create(directory_.get(), segment_, number);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_EQ(write(first->fd(), "first", 5), 5);
  auto second = PartialFile::Create(directory_.get(), segment_, number);
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_EQ(write(second->fd(), "2nd", 3), 3);
  EXPECT_NE(first->name(), second->name());
  EXPECT_EQ(std::filesystem::file_size(Path(first->name())), 5u);
  const auto committed = (*std::move(first)).Commit();
  ASSERT_TRUE(committed.ok()) << committed.status();
  EXPECT_EQ(std::filesystem::file_size(Path(segment_)), 5u);
  struct stat info;
  ASSERT_EQ(fstat(committed->get(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_TRUE((*std::move(second)).Commit().ok());
  EXPECT_EQ(std::filesystem::file_size(Path(segment_)), 3u) << "the last one stays";
  EXPECT_THAT(temp_.Files(".partial"), SizeIs(0));
}

TEST_F(PartialFileTest, GivesUpWhereEveryNameIsTaken) {
  const auto number = [] { return uint64_t{7}; };
  const auto first = PartialFile::Create(directory_.get(), segment_, number);
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status status = PartialFile::Create(directory_.get(), segment_, number).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr(segment_));
  EXPECT_TRUE(std::filesystem::exists(Path(first->name()))) << "the other's is left alone";
}

TEST_F(PartialFileTest, IsRemovedUnlessItIsCommitted) {
  auto file = PartialFile::Create(directory_.get(), segment_);
  ASSERT_TRUE(file.ok()) << file.status();
  const std::string name = file->name();
  EXPECT_TRUE(IsPartialName(name));
  RemoveAbandoned(directory_.get(), name);
  EXPECT_TRUE(std::filesystem::exists(Path(name))) << "its writer lives";
  {
    const PartialFile moved = *std::move(file);
    EXPECT_TRUE(std::filesystem::exists(Path(name)));
  }
  EXPECT_THAT(temp_.Files(""), SizeIs(0));
}

TEST_F(PartialFileTest, NumbersDiffer) { EXPECT_NE(RandomNumber(), RandomNumber()); }

}  // namespace
}  // namespace moepool
