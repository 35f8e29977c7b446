#include "gateway/auth.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using testing::HasSubstr;
using testing::Not;

// SHA-256 of "abc", from FIPS 180-2.
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kZeros[] = "0000000000000000000000000000000000000000000000000000000000000000";

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(ParseApiKeysTest, Lines) {
  const auto keys = ParseApiKeys(std::string("# comment\n\nalice:") + kAbc + "\r\n  b.o-b_2:" + kZeros);
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_EQ((*keys)[0].name, "alice");
  EXPECT_EQ((*keys)[0].sha256[0], 0xBA);
  EXPECT_EQ((*keys)[0].sha256[31], 0xAD);
  EXPECT_EQ((*keys)[1].name, "b.o-b_2");
}

TEST(ParseApiKeysTest, ErrorsNameTheLineAndQuoteNoHash) {
  const std::string abc = kAbc;
  const std::pair<std::string, std::string> cases[] = {
      {"", "holds no key"},
      {"# alice:" + abc, "holds no key"},
      {"\nalice", "line 2: has no ':'"},
      {":" + abc, "line 1: the name before ':'"},
      {"a b:" + abc, "line 1: the name before ':'"},
      {std::string(65, 'a') + ":" + abc, "line 1: the name before ':'"},
      {"alice:" + abc.substr(1), "line 1: what follows alice:"},
      {"alice:" + abc + "0", "line 1: what follows alice:"},
      {"alice: " + abc, "line 1: what follows alice:"},
      {"alice:g" + abc.substr(1), "line 1: what follows alice:"},
      {"alice:" + abc + "\nalice:" + kZeros, "line 2: the name alice comes twice"},
      {"alice:" + abc + "\nbob:BA" + abc.substr(2), "line 2: the key of bob has another name already"},
  };
  for (const auto& [text, expected] : cases) {
    const auto keys = ParseApiKeys(text);
    EXPECT_EQ(keys.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(Message(keys.status()), HasSubstr(expected));
    EXPECT_THAT(Message(keys.status()), Not(HasSubstr(abc.substr(4, 20))));
  }
}

TEST(ParseApiKeysTest, SoManyAndNoMore) {
  std::string text;
  for (size_t i = 0; i <= kMaxApiKeys; ++i) {
    char line[80];
    std::snprintf(line, sizeof(line), "k%zu:%064zx\n", i, i);
    if (i == kMaxApiKeys) {
      EXPECT_TRUE(ParseApiKeys(text).ok());
    }
    text += line;
  }
  EXPECT_THAT(Message(ParseApiKeys(text).status()), HasSubstr("line 4097: more than 4096 keys"));
}

TEST(MakeApiKeyTest, MakesWhatParses) {
  std::set<std::string> seen;
  for (int i = 0; i < 3; ++i) {
    const auto made = MakeApiKey("alice");
    ASSERT_TRUE(made.ok());
    EXPECT_THAT(made->key, testing::MatchesRegex("mp-[-_A-Za-z0-9]{43}"));
    EXPECT_TRUE(seen.insert(made->key).second);
    EXPECT_TRUE(ParseApiKeys(made->line).ok());
  }
  EXPECT_FALSE(MakeApiKey("").ok());
  EXPECT_FALSE(MakeApiKey("a:b").ok());
}

class ApiKeysTest : public testing::Test {
 protected:
  ApiKeysTest() : path_(testing::TempDir() + "api_keys." + std::to_string(getpid())) {}
  ~ApiKeysTest() override { unlink(path_.c_str()); }
  // As an editor does it: another file takes the place of the old one.
  void Put(const std::string& text, mode_t mode = 0600) {
    const std::string next = path_ + ".next";
    std::ofstream(next) << text;
    chmod(next.c_str(), mode);
    rename(next.c_str(), path_.c_str());
  }
  const std::string path_;
};

TEST_F(ApiKeysTest, Check) {
  const auto other = MakeApiKey("bob");
  Put(std::string("alice:") + kAbc + "\n" + other->line + "\n");
  const auto keys = ApiKeys::Load(path_);
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(*(*keys)->Check("Bearer abc"), "alice");
  EXPECT_EQ(*(*keys)->Check("bearer   abc "), "alice");
  EXPECT_EQ(*(*keys)->Check("Bearer " + other->key), "bob");
  for (const std::string bad : {"", " ", "Bearer", "Bearer ", "Bearer ab", "Bearer abcd", "Bearer ABC",
                                "Basic abc", "abc", "Bearerabc"}) {
    const auto name = (*keys)->Check(bad);
    EXPECT_EQ(name.status().code(), absl::StatusCode::kUnauthenticated) << bad;
  }
  const auto secret = (*keys)->Check("Bearer swordfish");
  EXPECT_THAT(Message(secret.status()), Not(HasSubstr("swordfish")));
  EXPECT_THAT(Message((*keys)->Check("Bearer " + std::string(513, 'a')).status()), HasSubstr("513 bytes"));
}

TEST_F(ApiKeysTest, FilesThatCannotBeUsed) {
  EXPECT_EQ(ApiKeys::Load(path_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(ApiKeys::Load(path_).status()), HasSubstr(path_));
  Put(std::string("alice:") + kAbc, 0602);
  EXPECT_EQ(ApiKeys::Load(path_).status().code(), absl::StatusCode::kFailedPrecondition);
  Put("alice");
  EXPECT_THAT(Message(ApiKeys::Load(path_).status()), HasSubstr(path_ + ": line 1"));
  Put(std::string(1 << 20, '#') + "#");
  EXPECT_THAT(Message(ApiKeys::Load(path_).status()), HasSubstr("more than 1048576 bytes"));
  EXPECT_FALSE(ApiKeys::Load(testing::TempDir()).ok());
}

TEST_F(ApiKeysTest, ChangesAreTakenUpAndMistakesAreNot) {
  Put(std::string("alice:") + kAbc);
  const auto keys = ApiKeys::Load(path_);
  ASSERT_TRUE(keys.ok());
  Put(std::string("bob:") + kAbc);
  (*keys)->Refresh();
  EXPECT_EQ(*(*keys)->Check("Bearer abc"), "bob");
  Put("what is this");
  (*keys)->Refresh();
  EXPECT_EQ(*(*keys)->Check("Bearer abc"), "bob");
  unlink(path_.c_str());
  (*keys)->Refresh();
  EXPECT_EQ(*(*keys)->Check("Bearer abc"), "bob");
  Put(std::string("carol:") + kZeros);
  (*keys)->Refresh();
  EXPECT_FALSE((*keys)->Check("Bearer abc").ok());
}

}  // namespace
}  // namespace moepool
