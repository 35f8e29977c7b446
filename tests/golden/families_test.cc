// Whole tiny models against transformers in F32 (make_families.py): every row of logits within 1e-3 of the
// row's largest value, and every choice of experts the same; prefilled at once, in chunks, and token by
// token.
#include <gtest/gtest.h>

#include <cstdio>
#include <tuple>

#include "tests/golden/families_golden.h"

namespace moepool {
namespace {

class FamiliesTest : public ::testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(FamiliesTest, AnswersAreThoseOfTransformers) {
  const auto& [name, step_tokens] = GetParam();
  const Golden golden = ReadGolden(name);
  const GoldenDifference difference =
      RunGolden(golden, MakeSyntheticSource(golden.spec).value(), step_tokens);
  EXPECT_LE(difference.logits, 1e-3);
  EXPECT_EQ(difference.choices, 0);
  EXPECT_TRUE(difference.Passes());
  const size_t gated_layers = golden.spec.experts > 0 ? static_cast<size_t>(golden.spec.layers) : 0;
  EXPECT_EQ(difference.choices_seen, static_cast<int64_t>(gated_layers * golden.ids.size()));
  std::printf("largest difference: %.2e of the row's largest logit\n", difference.logits);
}

// A whole prompt a step, chunks that straddle the cache's blocks, and one token a step as in decode.
INSTANTIATE_TEST_SUITE_P(
    All, FamiliesTest, ::testing::Combine(::testing::ValuesIn(GoldenNames()), ::testing::Values(512, 23, 1)),
    [](const auto& info) { return std::get<0>(info.param) + "_" + std::to_string(std::get<1>(info.param)); });

}  // namespace
}  // namespace moepool
