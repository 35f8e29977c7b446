#include "gateway/token_stream.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

// Pushes one id at a time; what came out after each.
struct Trace {
  std::vector<std::string> steps;
  std::string text;
  bool stopped = false;
};

Trace Feed(const std::vector<std::string>& stops, std::string_view input, int32_t min_tokens = 0) {
  const ByteTokenizer tokenizer({});
  TokenStream stream(&tokenizer, stops, min_tokens);
  Trace trace;
  for (const int32_t id : Ids(input)) {
    trace.steps.push_back(stream.Push({&id, 1}).text);
    trace.text += trace.steps.back();
  }
  trace.text += stream.Finish();
  trace.stopped = stream.stopped();
  return trace;
}

TEST(TokenStreamTest, WithoutStopStringsTextComesAtOnce) {
  EXPECT_THAT(Feed({}, "abc").steps, testing::ElementsAre("a", "b", "c"));
}

TEST(TokenStreamTest, HoldsBackWhatMayBecomeAStopString) {
  const Trace trace = Feed({"END"}, "xENxEND!");
  EXPECT_THAT(trace.steps, testing::ElementsAre("x", "", "", "ENx", "", "", "", ""));
  EXPECT_EQ(trace.text, "xENx");
  EXPECT_TRUE(trace.stopped);
}

TEST(TokenStreamTest, WhatIsHeldComesAtTheEnd) {
  const Trace trace = Feed({"END"}, "xEN");
  EXPECT_EQ(trace.text, "xEN");
  EXPECT_FALSE(trace.stopped);
}

TEST(TokenStreamTest, PrefixWithinAPrefix) {
  EXPECT_EQ(Feed({"aab"}, "aaab").text, "a");
  EXPECT_EQ(Feed({"aba"}, "abcaba").text, "abc");
}

TEST(TokenStreamTest, TheFirstOfSeveralEndsIt) {
  EXPECT_EQ(Feed({"xyz", "y"}, "axyz").text, "ax");
  EXPECT_EQ(Feed({"world", "lo w"}, "hello world").text, "hel");
}

TEST(TokenStreamTest, StopStringInsideOneCharacterOfSeveralBytes) {
  const Trace trace = Feed({"。"}, "好。的");
  EXPECT_EQ(trace.text, "好");
  EXPECT_TRUE(trace.stopped);
}

TEST(TokenStreamTest, CharactersComeWhole) {
  const Trace trace = Feed({}, "é😀");
  EXPECT_THAT(trace.steps, testing::ElementsAre("", "é", "", "", "", "😀"));
}

TEST(TokenStreamTest, CutCharacterAtTheEndIsReplaced) {
  EXPECT_EQ(Feed({}, "a\xF0\x9F").text, "a\xEF\xBF\xBD");
}

TEST(TokenStreamTest, StopStringCompletedByTheEnd) {
  const Trace trace = Feed({"\xEF\xBF\xBD"}, "a\xF0\x9F");
  EXPECT_EQ(trace.text, "a");
  EXPECT_TRUE(trace.stopped);
}

TEST(TokenStreamTest, SaysWhichIdsItTook) {
  const ByteTokenizer tokenizer({});
  TokenStream stream(&tokenizer, {"b"});
  const std::vector<int32_t> ids = Ids("abcd");
  const TokenStream::Step step = stream.Push(ids);
  EXPECT_EQ(step.text, "a");
  EXPECT_EQ(step.used, 2u);
  EXPECT_EQ(stream.Push(ids).used, 0u);
  EXPECT_EQ(stream.Finish(), "");
}

TEST(TokenStreamTest, IdsThatEndGenerationHaveNoText) {
  const ByteTokenizer tokenizer({});
  TokenStream stream(&tokenizer, {});
  const std::vector<int32_t> ids = {'a', kEos, 'b'};
  const TokenStream::Step step = stream.Push(ids);
  EXPECT_EQ(step.text, "ab");
  EXPECT_EQ(step.used, 3u);
}

TEST(TokenStreamTest, StopStringsCompleteWithinMinTokensAreText) {
  EXPECT_EQ(Feed({"ab"}, "abab", 1).text, "");
  EXPECT_EQ(Feed({"ab"}, "abab", 2).text, "ab");
  EXPECT_EQ(Feed({"ab"}, "abab", 3).text, "ab");  // begun within, complete beyond
  const Trace trace = Feed({"ab"}, "abab", 4);
  EXPECT_EQ(trace.text, "abab");
  EXPECT_FALSE(trace.stopped);
  // What is held may hold a shorter one that was exempt.
  EXPECT_EQ(Feed({"aba!", "b"}, "abaxb", 2).text, "abax");
  EXPECT_EQ(Feed({"aba!", "b"}, "aba!", 2).text, "");
}

// Against a scan of the whole text after each id.
TEST(TokenStreamTest, EqualsAFullScanOnRandomTexts) {
  constexpr uint32_t kSeed = 20240611;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops(random() % 4);
    for (std::string& stop : stops) {
      for (size_t i = 0, n = 1 + random() % 5; i < n; ++i) stop += "ab"[random() % 2];
    }
    std::string input;
    for (size_t i = 0, n = random() % 24; i < n; ++i) input += "ab"[random() % 2];
    const size_t min_tokens = random() % 2 == 0 ? 0 : random() % 24;
    std::string expected;
    bool stopped = false;
    for (const char c : input) {
      expected += c;
      size_t first = std::string::npos;
      for (const std::string& stop : stops) {
        // Only where it ends with this id, which is not one of the first.
        if (expected.size() > min_tokens && expected.ends_with(stop)) {
          first = std::min(first, expected.size() - stop.size());
        }
      }
      if (first == std::string::npos) continue;
      expected.resize(first);
      stopped = true;
      break;
    }
    const Trace trace = Feed(stops, input, static_cast<int32_t>(min_tokens));
    ASSERT_EQ(trace.text, expected) << "min_tokens " << min_tokens << " input " << input << " stops "
                                    << testing::PrintToString(stops);
    ASSERT_EQ(trace.stopped, stopped);
  }
}

}  // namespace
}  // namespace moepool
