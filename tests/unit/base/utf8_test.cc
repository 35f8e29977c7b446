#include "common/base/utf8.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moepool {
namespace {

TEST(Utf8, EveryCodePointReadsBackAsWritten) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Step step = NextUtf8(text);
    ASSERT_EQ(step.kind, Utf8Kind::kCharacter) << std::hex << static_cast<uint32_t>(c);
    ASSERT_EQ(step.code_point, c);
    ASSERT_EQ(step.bytes, text.size());
    for (size_t n = 1; n < text.size(); ++n) {
      const Utf8Step cut = NextUtf8(std::string_view(text).substr(0, n));
      ASSERT_EQ(cut.kind, Utf8Kind::kIncomplete);
      ASSERT_EQ(cut.bytes, n);
    }
  }
}

TEST(Utf8, InvalidBytesEndAtTheMaximalSubpart) {
  const struct {
    std::string_view text;
    int bytes;
  } cases[] = {
      {"\x80", 1},         {"\xBF\x80", 1},         {"\xC0\xAF", 1},         {"\xC1\xBF", 1},
      {"\xC3(", 1},        {"\xE0\x9F\xBF", 1},     {"\xE2\x82(", 2},        {"\xED\xA0\x80", 1},
      {"\xF0\x8F\x80", 1}, {"\xF0\x9F\x98(", 3},    {"\xF4\x90\x80\x80", 1}, {"\xF5\x80", 1},
      {"\xFF", 1},         {"\xF1\x80\xC3\xA9", 2}, {"\xF8\x88\x80\x80", 1},
  };
  for (const auto& c : cases) {
    const Utf8Step step = NextUtf8(c.text);
    EXPECT_EQ(step.kind, Utf8Kind::kInvalid) << testing::PrintToString(std::string(c.text));
    EXPECT_EQ(step.bytes, c.bytes) << testing::PrintToString(std::string(c.text));
  }
}

TEST(Utf8, ValidPrefixStopsAtTheFirstBadByteWhereverItStands) {
  for (size_t n = 0; n < 40; ++n) {
    std::string text(n, 'a');
    EXPECT_EQ(ValidUtf8Prefix(text), n);
    text += "é";
    EXPECT_TRUE(IsUtf8(text));
    text += "\xFF tail that is long enough for words";
    EXPECT_EQ(ValidUtf8Prefix(text), n + 2);
    EXPECT_FALSE(IsUtf8(text));
  }
  EXPECT_EQ(ValidUtf8Prefix("12345678\xE2\x82"), 8u);
}

}  // namespace
}  // namespace moepool
