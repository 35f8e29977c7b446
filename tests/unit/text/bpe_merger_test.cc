#include "common/text/bpe_merger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::array<int32_t, 256> ByteIds() {
  std::array<int32_t, 256> ids;
  for (int byte = 0; byte < 256; ++byte) ids[byte] = byte;
  return ids;
}

struct Rule {
  int32_t left;
  int32_t right;
  int32_t merged;
};

BpeMerger Merger(const std::vector<Rule>& rules) {
  BpeMerger merger(ByteIds());
  for (size_t rank = 0; rank < rules.size(); ++rank) {
    merger.Add(rules[rank].left, rules[rank].right, static_cast<uint32_t>(rank), rules[rank].merged);
  }
  return merger;
}

std::vector<int32_t> Encode(const BpeMerger& merger, std::string_view word) {
  BpeMerger::Scratch scratch;
  std::vector<int32_t> ids;
  merger.Encode(word, &scratch, &ids);
  return ids;
}

// The definition, step by step.
std::vector<int32_t> Naive(const std::vector<Rule>& rules, std::string_view word) {
  std::vector<int32_t> ids;
  for (const char c : word) ids.push_back(static_cast<uint8_t>(c));
  for (;;) {
    bool merged = false;
    for (const Rule& rule : rules) {
      for (size_t i = 0; i + 1 < ids.size() && !merged; ++i) {
        if (ids[i] != rule.left || ids[i + 1] != rule.right) continue;
        ids[i] = rule.merged;
        ids.erase(ids.begin() + static_cast<ptrdiff_t>(i) + 1);
        merged = true;
      }
      if (merged) break;
    }
    if (!merged) return ids;
  }
}

TEST(BpeMerger, LowestRankFirstThenLeftmost) {
  const BpeMerger merger = Merger({{'b', 'c', 300}, {'a', 'b', 301}, {'a', 'a', 302}});
  EXPECT_THAT(Encode(merger, ""), IsEmpty());
  EXPECT_THAT(Encode(merger, "a"), ElementsAre('a'));
  EXPECT_THAT(Encode(merger, "abc"), ElementsAre('a', 300));
  EXPECT_THAT(Encode(merger, "abd"), ElementsAre(301, 'd'));
  EXPECT_THAT(Encode(merger, "aaa"), ElementsAre(302, 'a'));
}

TEST(BpeMerger, BytesWithoutATokenAreLeftOut) {
  auto ids = ByteIds();
  ids['x'] = -1;
  BpeMerger merger(ids);
  merger.Add('a', 'b', 0, 300);
  EXPECT_THAT(Encode(merger, "xaxbx"), ElementsAre(300));
  EXPECT_THAT(Encode(merger, "xx"), IsEmpty());
}

TEST(BpeMerger, TheLastOfTwoMergesOfAPairCounts) {
  BpeMerger merger = Merger({{'a', 'b', 300}, {'b', 'c', 301}});
  EXPECT_THAT(Encode(merger, "abc"), ElementsAre(300, 'c'));
  merger.Add('a', 'b', 2, 300);
  EXPECT_THAT(Encode(merger, "abc"), ElementsAre('a', 301));
}

TEST(BpeMerger, EqualsTheDefinitionOnRandomVocabularies) {
  const uint32_t seed = 7;
  std::mt19937 random(seed);
  for (int vocabulary = 0; vocabulary < 200; ++vocabulary) {
    std::vector<Rule> rules;
    std::map<std::pair<int32_t, int32_t>, bool> known;
    std::map<int32_t, std::string> text = {{'a', "a"}, {'b', "b"}, {'c', "c"}};
    std::map<std::string, int32_t> ids;
    std::vector<int32_t> tokens = {'a', 'b', 'c'};
    for (int i = 0; i < 25; ++i) {
      const int32_t left = tokens[random() % tokens.size()];
      const int32_t right = tokens[random() % tokens.size()];
      if (!known.emplace(std::pair(left, right), true).second) continue;
      const auto [it, is_new] = ids.emplace(text[left] + text[right], 300 + i);
      if (is_new) {
        tokens.push_back(it->second);
        text[it->second] = it->first;
      }
      rules.push_back({left, right, it->second});
    }
    std::shuffle(rules.begin(), rules.end(), random);
    const BpeMerger merger = Merger(rules);
    for (int i = 0; i < 20; ++i) {
      std::string word;
      for (uint32_t n = random() % 40; n > 0; --n) word.push_back("abc"[random() % 3]);
      ASSERT_EQ(Encode(merger, word), Naive(rules, word))
          << word << " seed " << seed << " vocabulary " << vocabulary;
    }
  }
}

// A quadratic merger would not come back from this.
TEST(BpeMerger, AMillionByteWord) {
  std::vector<Rule> rules = {{'a', 'a', 300}};
  for (int i = 0; i < 10; ++i) rules.push_back({300 + i, 300 + i, 301 + i});
  const std::vector<int32_t> ids = Encode(Merger(rules), std::string(1 << 20, 'a'));
  EXPECT_EQ(ids, std::vector<int32_t>(1 << 9, 310));
}

}  // namespace
}  // namespace moepool
