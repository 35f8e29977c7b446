#include "common/text/token_trie.h"

#include <gtest/gtest.h>

#include <string>

namespace moepool {
namespace {

TEST(TokenTrie, LongestAtTheLeftmostPosition) {
  TokenTrie trie;
  trie.Add("<a>", 1);
  trie.Add("<a><b>", 2);
  trie.Add("a><b>c", 3);
  trie.Add("b", 4);
  const std::string text = "x<a><b>c<a><c";
  const auto expect = [&](size_t from, size_t begin, size_t end, int32_t id) {
    const TokenTrie::Match match = trie.Find(text, from);
    EXPECT_EQ(match.begin, begin) << from;
    EXPECT_EQ(match.end, end) << from;
    EXPECT_EQ(match.id, id) << from;
  };
  expect(0, 1, 7, 2);
  expect(2, 2, 8, 3);
  expect(3, 5, 6, 4);
  expect(7, 8, 11, 1);
  expect(11, 13, 13, -1);
  expect(13, 13, 13, -1);
}

TEST(TokenTrie, EmptyFindsNothing) {
  const TokenTrie::Match match = TokenTrie().Find("abc", 1);
  EXPECT_EQ(match.begin, 3u);
  EXPECT_EQ(match.id, -1);
}

TEST(TokenTrie, BytesAboveAsciiAndZero) {
  TokenTrie trie;
  trie.Add(std::string_view("\0\xFF", 2), 7);
  const TokenTrie::Match match = trie.Find(std::string_view("\xFF\0\0\xFF", 4), 0);
  EXPECT_EQ(match.begin, 2u);
  EXPECT_EQ(match.end, 4u);
  EXPECT_EQ(match.id, 7);
}

}  // namespace
}  // namespace moepool
