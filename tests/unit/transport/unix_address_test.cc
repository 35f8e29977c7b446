// The socket of shared memory as a file, for containers: who reaches it, and what becomes of the file.
#include "common/transport/unix_address.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/transport/host_id.h"
#include "common/transport/shared_memory_socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

class UnixAddressTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(mkdtemp(directory_.data()), nullptr);
    std::filesystem::create_directory(Path("shared"));
    std::filesystem::create_directory_symlink(Path("shared"), Path("mounted"));
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  // A router that knows the session "known".
  static std::unique_ptr<SharedMemorySocket> Listen(const std::string& directory) {
    auto socket = SharedMemorySocket::Listen(1 << 16,
                                             {[](const std::string& session) { return session == "known"; },
                                              [](const std::string&, SharedMemoryConnection) {}},
                                             directory);
    EXPECT_TRUE(socket.ok()) << socket.status();
    return *std::move(socket);
  }
  static absl::Status Dial(const std::string& directory, const std::string& name,
                           const std::string& session = "known") {
    return DialSharedMemory(name, session, absl::Seconds(20), directory).status();
  }

  std::string directory_ = "/tmp/moepool-XXXXXX";  // short enough for a socket
};

TEST_F(UnixAddressTest, AFileIsReachedUnderAnyPathOfItsDirectory) {
  const auto socket = Listen(Path("shared"));
  struct stat file;
  ASSERT_EQ(stat((Path("shared/") + socket->name()).c_str(), &file), 0);
  EXPECT_TRUE(S_ISSOCK(file.st_mode));
  EXPECT_EQ(file.st_mode & 0777, 0600u) << "nobody else's";
  EXPECT_TRUE(Dial(Path("shared"), socket->name()).ok());
  EXPECT_TRUE(Dial(Path("mounted"), socket->name()).ok());
  EXPECT_EQ(Dial(Path("mounted"), socket->name(), "unknown").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(Dial(directory_, socket->name()).code(), absl::StatusCode::kUnavailable)
      << "not there in another directory";
}

TEST_F(UnixAddressTest, OneSideWithADirectoryAndOneWithoutAreToldSo) {
  const auto file = Listen(Path("shared"));
  const absl::Status without = Dial("", file->name());
  EXPECT_EQ(without.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(without.message()), HasSubstr("--shm-dir"));
  const auto abstract = Listen("");
  EXPECT_EQ(Dial(Path("shared"), abstract->name()).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(UnixAddressTest, NoNameLeadsOutOfTheDirectory) {
  for (const char* name : {"../moepool-1.sock", "moepool-/../../1.sock", "/moepool-1.sock", "1.sock", ""}) {
    EXPECT_EQ(ToUnixAddress(Path("shared"), name).status().code(), absl::StatusCode::kInvalidArgument)
        << name;
  }
  EXPECT_TRUE(ToUnixAddress(Path("shared"), "moepool-1.sock").ok());
}

TEST_F(UnixAddressTest, ALongPathIsRefusedWithBothLengths) {
  const absl::Status status = ToUnixAddress(std::string(93, 'd'), "moepool-1.sock").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("107"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("108"));
  EXPECT_TRUE(ToUnixAddress(std::string(92, 'd'), "moepool-1.sock").ok());
}

TEST_F(UnixAddressTest, FilesOfTheDeadAreRemovedAndOthersStay) {
  const absl::StatusOr<UnixAddress> dead = ToUnixAddress(Path("shared"), "moepool-dead.sock");
  ASSERT_TRUE(dead.ok());
  const int killed = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(bind(killed, dead->get(), dead->bytes), 0);
  close(killed);  // as SIGKILL would: the file stays
  std::ofstream(Path("shared/moepool-notes.txt")) << "not a socket";
  ASSERT_TRUE(std::filesystem::exists(dead->text));

  const auto first = Listen(Path("shared"));
  EXPECT_FALSE(std::filesystem::exists(dead->text));
  {
    const auto second = Listen(Path("shared"));
    EXPECT_TRUE(Dial(Path("shared"), first->name()).ok()) << "a living router's socket stays";
    EXPECT_TRUE(Dial(Path("shared"), second->name()).ok());
  }
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(Path("shared"))) {
    EXPECT_THAT(entry.path().filename().string(), ::testing::AnyOf(first->name(), "moepool-notes.txt"));
    ++files;
  }
  EXPECT_EQ(files, 2u) << "the second's went with it";
}

TEST_F(UnixAddressTest, ADirectoryThatIsMissingIsNamed) {
  const auto socket = SharedMemorySocket::Listen(
      1 << 16, {[](const std::string&) { return true; }, [](const std::string&, SharedMemoryConnection) {}},
      Path("missing"));
  EXPECT_EQ(socket.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(socket.status().message()), HasSubstr(Path("missing")));
}

TEST_F(UnixAddressTest, TheHostIsTheDirectorysWhereOneIsShared) {
  EXPECT_EQ(HostId(Path("shared")), HostId(Path("mounted")));
  EXPECT_NE(HostId(Path("shared")), HostId(directory_));
  EXPECT_NE(HostId(Path("shared")), HostId());
  EXPECT_EQ(HostId(Path("missing")), HostId()) << "what is not there is not shared";
}

}  // namespace
}  // namespace moepool
