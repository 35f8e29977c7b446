// Whole tiny models against transformers in F32 (make_families.py): every row of logits within 1e-3 of the
// row's largest value, and every choice of experts the same; prefilled at once, in chunks, and token by
// token.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <tuple>

#include "router/engine.h"
#include "router/local_pool.h"
#include "tests/golden/families_golden.h"
#include "tests/support/run_sequence.h"

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

// The last of 40 prompt tokens, whose keys are rotated for the reach of prompt and max_tokens: 65 is beyond
// the original context of 64, as in the golden run of 65 tokens; 64 is not.
TEST(LongRope, IsDecidedAtAdmission) {
  const Golden golden = ReadGolden("phimoe_beyond");
  constexpr size_t kPrompt = 40;
  ASSERT_EQ(golden.positions[kPrompt - 1], static_cast<int32_t>(kPrompt - 1));
  const size_t vocab = static_cast<size_t>(golden.spec.vocab);
  const float* const theirs = &golden.logits[(kPrompt - 1) * vocab];
  for (const auto& [max_tokens, equal] : {std::pair(24, false), {25, true}}) {
    const std::shared_ptr<const ModelSource> source = MakeSyntheticSource(golden.spec).value();
    const std::unique_ptr<Backend> backend = MakeBackend({"cpu", "auto", 2}).value();
    const auto pool = LocalPool::Create(source, backend.get(), 1).value();
    std::vector<float> first;
    EngineOptions options;
    options.limits.token_budget = 23;
    options.kv_type = KvType::kF32;
    options.kv_bytes = 16 << 20;
    options.on_logits = [&](const std::string&, int, std::span<const float> logits) {
      if (first.empty()) first.assign(logits.begin(), logits.end());
    };
    const auto engine = Engine::Create(backend.get(), source, pool.get(), options).value();
    SequenceRequest request;
    request.prompt.assign(golden.ids.begin(), golden.ids.begin() + kPrompt);
    request.max_tokens = max_tokens;
    const SequenceResult result = RunSequence(engine.get(), request);
    ASSERT_TRUE(result.status.ok()) << result.status;
    ASSERT_EQ(first.size(), vocab);
    double largest = 0;
    double apart = 0;
    for (size_t v = 0; v < vocab; ++v) {
      largest = std::max<double>(largest, std::fabs(theirs[v]));
      apart = std::max<double>(apart, std::fabs(first[v] - theirs[v]));
    }
    EXPECT_EQ(apart <= 1e-3 * largest, equal) << max_tokens << " tokens: " << apart / largest;
  }
}

}  // namespace
}  // namespace moepool
