#include "gateway/dry_breakers.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Encodes by the longest token, and drops what has none.
class WordTokenizer : public Tokenizer {
 public:
  explicit WordTokenizer(std::vector<std::string> words) : words_(std::move(words)) {}
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool) const override {
    ++encodes;
    std::vector<int32_t> ids;
    while (!text.empty()) {
      int32_t best = -1;
      for (int32_t id = 0; id < VocabSize(); ++id) {
        if (text.substr(0, words_[id].size()) == words_[id] &&
            (best < 0 || words_[id].size() > words_[best].size())) {
          best = id;
        }
      }
      if (best >= 0) ids.push_back(best);
      text.remove_prefix(best < 0 ? 1 : words_[best].size());
    }
    return ids;
  }
  std::string Bytes(int32_t id, bool) const override { return words_[id]; }
  bool EndsGeneration(int32_t) const override { return false; }
  int32_t VocabSize() const override { return static_cast<int32_t>(words_.size()); }
  const TokenizerSpec& Spec() const override { return spec_; }

  mutable int encodes = 0;

 private:
  const std::vector<std::string> words_;
  const TokenizerSpec spec_;
};

TEST(DryBreakersTest, TokensThatHoldABreaker) {
  const WordTokenizer tokenizer({"a", "\n", "\n\n", "x:", ":", "b", ":y*"});
  const auto found = FindDryBreakers(tokenizer, {"\n", ":", "\"", "*"});
  ASSERT_TRUE(found.ok());
  EXPECT_THAT(found->ids, ElementsAre(1, 2, 3, 4, 6));
  EXPECT_THAT(found->sequences, IsEmpty());
}

TEST(DryBreakersTest, TooManyAreRefusedAndNotKept) {
  std::vector<std::string> words = {"b"};
  for (int i = 0; i < 40000; ++i) words.push_back(std::to_string(i) + "a");
  const WordTokenizer tokenizer(std::move(words));
  DryBreakerCache cache(&tokenizer);
  for (int encodes = 1; encodes <= 2; ++encodes) {  // searched again: nothing was kept
    EXPECT_EQ(cache.Get({"ab"}).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(tokenizer.encodes, encodes);
  }
}

TEST(DryBreakersTest, TokensThatBeginABreaker) {
  //                              0    1    2     3      4      5       6
  const WordTokenizer tokenizer({"a", "b", "ab", "xab", "abc", "aab", "c"});
  const auto found = FindDryBreakers(tokenizer, {"abc"});
  ASSERT_TRUE(found.ok());
  EXPECT_THAT(found->ids, ElementsAre(4));
  // "a" with "bc" as b c; "ab", "xab" and "aab" with "c".
  EXPECT_THAT(found->sequences,
              ElementsAre(ElementsAre(0, 1, 6), ElementsAre(2, 6), ElementsAre(3, 6), ElementsAre(5, 6)));
}

TEST(DryBreakersTest, OneTokenMayBeginABreakerInTwoWays) {
  const WordTokenizer tokenizer({"xaa", "a", "b"});
  const auto found = FindDryBreakers(tokenizer, {"aab"});
  ASSERT_TRUE(found.ok());
  EXPECT_THAT(found->sequences, ElementsAre(ElementsAre(0, 1, 2), ElementsAre(0, 2), ElementsAre(1, 1, 2)));
}

TEST(DryBreakersTest, ARestWithoutTokensCountsAsSaid) {
  const WordTokenizer tokenizer({"x<", "y"});
  const auto found = FindDryBreakers(tokenizer, {"<!"});
  ASSERT_TRUE(found.ok());
  EXPECT_THAT(found->ids, ElementsAre(0));
  EXPECT_THAT(found->sequences, IsEmpty());
}

TEST(DryBreakersTest, LongRestsAreCut) {
  const WordTokenizer tokenizer({"a", "b"});
  const auto found = FindDryBreakers(tokenizer, {"a" + std::string(39, 'b')});
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->sequences.size(), 1u);
  EXPECT_EQ(found->sequences[0].size(), 21u);
}

TEST(DryBreakersTest, TheCacheLooksOnce) {
  const WordTokenizer tokenizer({"a", "b"});
  DryBreakerCache cache(&tokenizer);
  const auto first = cache.Get({"ab"});
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(tokenizer.encodes, 1);
  EXPECT_EQ(*cache.Get({"ab"}), *first);
  EXPECT_EQ(tokenizer.encodes, 1);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(cache.Get({"ab", std::to_string(i)}).ok());
  EXPECT_EQ((*cache.Get({"ab"}))->sequences, (*first)->sequences);
}

}  // namespace
}  // namespace moepool
