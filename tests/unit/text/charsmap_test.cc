#include "common/text/charsmap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace moepool {
namespace {

using ::testing::HasSubstr;

constexpr size_t kUnits = 512;

// A trie with the rules "a" to "X" and "ab" to "YZ". A node's children lie at its base, exclusive-or their
// byte.
class CompiledRules {
 public:
  CompiledRules() {
    Set(0, Offset(0, 256));
    Set(256 ^ 'a', Offset(256 ^ 'a', 300) | kHasValue | 'a');
    Set(300, kValue | 0);
    Set(300 ^ 'b', Offset(300 ^ 'b', 400) | kHasValue | 'b');
    Set(400, kValue | 2);
  }

  CompiledRules& Set(size_t i, uint32_t unit) {
    units_[i] = unit;
    return *this;
  }
  static constexpr uint32_t kValue = 1u << 31;
  static constexpr uint32_t kHasValue = 1u << 8;
  static uint32_t Offset(uint32_t from, uint32_t to) { return (from ^ to) << 10; }

  std::string Bytes() const {
    std::string bytes = U32(kUnits * 4);
    for (const uint32_t unit : units_) bytes += U32(unit);
    return bytes + std::string("X\0YZ\0", 5);
  }

 private:
  static std::string U32(uint32_t value) {
    std::string bytes;
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(value >> 8 * i));
    return bytes;
  }
  uint32_t units_[kUnits] = {};
};

TEST(Charsmap, TheLongestRuleApplies) {
  const Charsmap map = Charsmap::Parse(CompiledRules().Bytes()).value();
  const auto expect = [&](std::string_view text, size_t bytes, std::string_view replacement) {
    const Charsmap::Match match = map.Find(text);
    EXPECT_EQ(match.bytes, bytes) << text;
    EXPECT_EQ(match.replacement, replacement) << text;
  };
  expect("abc", 2, "YZ");
  expect("acb", 1, "X");
  expect("a", 1, "X");
  expect("ba", 0, "");
  expect("", 0, "");
  expect(std::string("\0a", 2), 0, "");
  EXPECT_EQ(Charsmap::Parse("").value().Find("a").bytes, 0u);
}

TEST(Charsmap, SaysWhatIsMalformed) {
  const auto expect = [](std::string_view bytes, std::string_view cause) {
    const absl::Status status = Charsmap::Parse(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << cause;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(cause)));
  };
  using R = CompiledRules;
  const std::string good = R().Bytes();
  expect("ab", "2 bytes, expected at least 4");
  expect(std::string(4, '\0'), "a trie of 0 bytes");
  expect(std::string(4, '\xFF') + "abc", "a trie of 4294967295 bytes, expected a multiple of 1024 up to 3");
  expect(good.substr(0, good.size() - 1), "replacements of 4 bytes do not end with a zero");
  expect(good.substr(0, 4 + kUnits * 4), "replacements of 0 bytes");
  expect(R().Set(0, R::kValue).Bytes(), "the root of the trie is a value");
  expect(R().Set(400, R::kValue | 5).Bytes(), "unit 400 points to byte 5 of 5");
  expect(R().Set(300 ^ 'b', R::Offset(300 ^ 'b', 512) | 'b').Bytes(), "points to unit 512 of 512");
  expect(R().Set(400, 0).Bytes(), "has no value at unit 400");
  expect(good + std::string(1025, 'x') + std::string(1, '\0'), "a replacement of 1025 bytes, at most 1024");
  EXPECT_TRUE(Charsmap::Parse(good + std::string(1024, 'x') + std::string(1, '\0')).ok());
}

// Whatever is let pass stays within its arrays; of use under the sanitizers.
TEST(Charsmap, DamagedRulesAreRefusedOrHarmless) {
  const uint32_t seed = 77;
  std::mt19937 random(seed);
  int passed = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = CompiledRules().Bytes();
    for (uint32_t n = 1 + random() % 3; n > 0; --n) {
      static constexpr size_t kUsed[] = {0, 256 ^ 'a', 'b', 300, 300 ^ 'b', 400};
      const size_t unit = random() % 4 == 0 ? random() % kUnits : kUsed[random() % std::size(kUsed)];
      bytes[4 + unit * 4 + random() % 4] = static_cast<char>(random());
    }
    const auto map = Charsmap::Parse(bytes);
    if (!map.ok()) continue;
    ++passed;
    for (const char* text : {"a", "ab", "abab", "b", "\xFF\xFE"}) {
      const Charsmap::Match match = map->Find(text);
      ASSERT_LE(match.bytes, std::string_view(text).size()) << "seed " << seed;
      ASSERT_LE(match.replacement.size(), 5u);
    }
  }
  EXPECT_GT(passed, 50);
}

}  // namespace
}  // namespace moepool
