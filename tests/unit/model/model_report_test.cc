#include "common/model/model_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/model/synthetic.h"
#include "tests/unit/model/test_files.h"

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(ModelReport, CountsEveryByteOnce) {
  const TempDirectory directory;
  const std::string path = directory.File("model.gguf");
  SynthSpec spec;
  spec.experts = 8;
  spec.experts_per_token = 2;
  spec.dtype = DType::kQ4_0;
  ASSERT_TRUE(WriteSyntheticGguf(spec, path).ok());
  const ModelReport report = *DescribeGguf(path);
  EXPECT_TRUE(report.servable.ok()) << report.servable;
  EXPECT_TRUE(report.warnings.empty());
  uint64_t by_type = 0;
  for (const TypeTotal& total : report.types) by_type += total.bytes;
  EXPECT_EQ(by_type, report.trunk_bytes + report.expert_bytes);
  EXPECT_EQ(report.expert_bytes, 2u * 8 * 3 * 64 * 128 / 32 * 18);
  EXPECT_EQ(report.smallest_expert_bytes, report.largest_expert_bytes);
  EXPECT_EQ(report.config.experts, 8);
  const std::string text = ToString(report, /*all_tensors=*/true);
  EXPECT_THAT(text, HasSubstr("general.architecture"));
  EXPECT_THAT(text, HasSubstr("64 x 128 x 8"));
  EXPECT_THAT(ToString(report, /*all_tensors=*/false), Not(HasSubstr("64 x 128 x 8")));
}

TEST(ModelReport, NamesWhatSetsAFamilyApart) {
  const TempDirectory directory;
  const std::string path = directory.File("model.gguf");
  const auto text = [&](const SynthSpec& spec) {
    EXPECT_TRUE(WriteSyntheticGguf(spec, path).ok());
    return ToString(*DescribeGguf(path), false);
  };
  SynthSpec spec;
  spec.experts = 4;
  spec.experts_per_token = 2;
  spec.sliding_window = 100;
  EXPECT_THAT(text(spec), AllOf(HasSubstr("window 100, context 512"), HasSubstr("softmax, renormalised")));
  spec.sliding_window = 0;
  spec.family = "phimoe";
  spec.original_context = 128;
  EXPECT_THAT(text(spec), AllOf(HasSubstr("layer norm with bias"), HasSubstr("qkv bias, output bias"),
                                HasSubstr("gate sparsemixer"), HasSubstr("(bias)"),
                                HasSubstr("long factors beyond 128 tokens, scale 1.24316")));
  spec.original_context = 0;
  spec.family = "qwen2moe";
  spec.shared_ffn = 96;
  EXPECT_THAT(text(spec), HasSubstr("gate softmax, shared expert of 96 (gated)"));
}

TEST(ModelReport, SmallDenseModelsAreWarnedOf) {
  const TempDirectory directory;
  const std::string path = directory.File("model.gguf");
  ASSERT_TRUE(WriteSyntheticGguf({}, path).ok());
  EXPECT_THAT(DescribeGguf(path)->warnings,
              ::testing::ElementsAre(HasSubstr("some expert slices are empty")));
}

TEST(ModelReport, AFileThatIsNoModelIsStillDescribed) {
  const TempDirectory directory;
  const std::string path = directory.File("other.gguf");
  RawBytes raw;
  raw.Header(1, 1).Text("general.architecture").U32(8).Text("bert").Tensor("t", 3, 0).Data(12);
  WriteFile(path, raw.str());
  const ModelReport report = *DescribeGguf(path);
  EXPECT_EQ(report.servable.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(report.tensors.size(), 1u);
  EXPECT_THAT(ToString(report, true), HasSubstr("architecture 'bert' is not one of"));
  WriteFile(path, "GGUF");
  EXPECT_EQ(DescribeGguf(path).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace moepool
