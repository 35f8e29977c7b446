// Processes that start together hash a file once: one computes, the others wait for it, and a dead one keeps
// nobody waiting. The one that computes is a real process.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <future>

#include "common/base/unique_fd.h"
#include "common/model/digest.h"
#include "tests/unit/model/test_files.h"

namespace moepool {
namespace {

ModelDigest Filled(uint8_t value) {
  ModelDigest digest;
  digest.fill(value);
  return digest;
}

class DigestLockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    file_.path = "/models/one.gguf";
    file_.bytes = 17;
    int begun[2];
    int go[2];
    ASSERT_EQ(pipe(begun), 0);
    ASSERT_EQ(pipe(go), 0);
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      close(go[1]);
      const auto digest = RememberedDigest(file_, [&]() -> absl::StatusOr<ModelDigest> {
        char byte = 0;
        if (write(begun[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1) _exit(2);
        return Filled(1);
      });
      _exit(digest.ok() && *digest == Filled(1) ? 0 : 1);
    }
    close(go[0]);
    go_ = UniqueFd(go[1]);
    char byte;
    ASSERT_EQ(read(begun[0], &byte, 1), 1) << "the child computes and holds the lock";
  }
  int AwaitChild() {
    int status = 0;
    EXPECT_EQ(waitpid(child_, &status, 0), child_);
    return status;
  }
  // In a thread of its own; 2 where it had to compute.
  std::future<ModelDigest> Ask() {
    return std::async(std::launch::async, [this] {
      return *RememberedDigest(file_, []() -> absl::StatusOr<ModelDigest> { return Filled(2); });
    });
  }

  TempDirectory directory_;
  FileIdentity file_;
  pid_t child_ = -1;
  UniqueFd go_;
};

TEST_F(DigestLockTest, OthersWaitForTheOneThatComputes) {
  std::future<ModelDigest> first = Ask();
  std::future<ModelDigest> second = Ask();
  EXPECT_EQ(first.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  const char byte = 0;
  ASSERT_EQ(write(go_.get(), &byte, 1), 1);
  EXPECT_EQ(first.get(), Filled(1));
  EXPECT_EQ(second.get(), Filled(1));
  EXPECT_EQ(AwaitChild(), 0);
  EXPECT_EQ(Ask().get(), Filled(1)) << "it is remembered";
}

TEST_F(DigestLockTest, AnotherFileDoesNotWait) {
  FileIdentity other = file_;
  ++other.modified_ns;
  EXPECT_EQ(*RememberedDigest(other, []() -> absl::StatusOr<ModelDigest> { return Filled(3); }), Filled(3));
  kill(child_, SIGKILL);
  AwaitChild();
}

TEST_F(DigestLockTest, AKilledOneLetsTheOthersGoOn) {
  std::future<ModelDigest> waiting = Ask();
  kill(child_, SIGKILL);
  EXPECT_TRUE(WIFSIGNALED(AwaitChild()));
  EXPECT_EQ(waiting.get(), Filled(2));
  EXPECT_EQ(Ask().get(), Filled(2));
}

TEST_F(DigestLockTest, AFailureIsNotRemembered) {
  kill(child_, SIGKILL);
  AwaitChild();
  const auto failed = RememberedDigest(
      file_, []() -> absl::StatusOr<ModelDigest> { return absl::DataLossError("unreadable"); });
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Ask().get(), Filled(2));
}

}  // namespace
}  // namespace moepool
