// The tensors of a file against those that its configuration implies, and its tokenizer's arrays.
#include "common/model/descriptor.h"
#include "common/model/families.h"
#include "common/model/tokenizer_metadata.h"
#include "tests/unit/model/descriptor_subject.h"

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class CheckTensorsOf : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Families, CheckTensorsOf,
                         ::testing::Values("llama", "qwen2moe", "qwen3moe", "olmoe", "phimoe"));

TEST_P(CheckTensorsOf, MissingAndMisshapen) {
  const Subject whole = Subject::Experts(GetParam());
  const bool may_tie = FindFamily(GetParam())->tied_embeddings;
  for (size_t i = 0; i < Subject(whole).tensors().size(); ++i) {
    Subject missing = whole;
    const std::string name = missing.tensors()[i].name;
    SCOPED_TRACE(name);
    missing.tensors().erase(missing.tensors().begin() + static_cast<std::ptrdiff_t>(i));
    if (name == "output.weight" && may_tie) {
      EXPECT_TRUE(missing.Describe()->tied_embeddings);
    } else {
      ExpectInvalid(missing, HasSubstr("'" + name + "' is missing"));
    }
    Subject misshapen = whole;
    misshapen.tensors()[i].dims[0] += 256;
    ExpectInvalid(misshapen, AllOf(HasSubstr("'" + name + "' has shape ["), HasSubstr("], expected [")));
  }
}

TEST(CheckTensors, SplitExperts) {
  SynthSpec spec;
  spec.experts = 3;
  spec.experts_per_token = 2;
  spec.split_experts = true;
  Subject subject(spec);
  EXPECT_TRUE(subject.Describe().ok());
  subject.Tensor("blk.1.ffn_down.2.weight")->dims[0] = 64;
  ExpectInvalid(subject, HasSubstr("'blk.1.ffn_down.2.weight' has shape [64, 64], expected [128, 64]"));
  Subject missing(spec);
  missing.Tensor("blk.0.ffn_up.1.weight")->name = "blk.0.ffn_up.3.weight";
  ExpectInvalid(missing, HasSubstr("'blk.0.ffn_up.1.weight' is missing"));
  Subject extra(spec);
  extra.tensors().push_back({"blk.0.ffn_up.3.weight", DType::kF32, 2, {64, 128, 1, 1}, 32768});
  ExpectUnimplemented(extra, HasSubstr("'blk.0.ffn_up.3.weight' is not one"));
  // Gate and up in one tensor: some files have it; not built in.
  Subject fused = Subject::Experts("llama");
  fused.Tensor("blk.0.ffn_gate_exps.weight")->name = "blk.0.ffn_gate_up_exps.weight";
  ExpectInvalid(fused, HasSubstr("'blk.0.ffn_gate_exps.weight' is missing"));
}

TEST(CheckTensors, SwappedDimensionsNameBothShapes) {
  Subject subject = Subject::Dense();
  std::swap(subject.Tensor("blk.1.ffn_down.weight")->dims[0],
            subject.Tensor("blk.1.ffn_down.weight")->dims[1]);
  ExpectInvalid(subject, HasSubstr("'blk.1.ffn_down.weight' has shape [64, 128], expected [128, 64]"));
}

TEST(CheckTensors, QuantisedVectorsAndStrangers) {
  Subject quantised = Subject::Dense();
  quantised.Tensor("blk.0.attn_norm.weight")->dtype = DType::kQ8_0;
  ExpectInvalid(quantised, HasSubstr("'blk.0.attn_norm.weight' is of type Q8_0"));
  Subject stranger = Subject::Dense();
  stranger.tensors().push_back({"blk.0.attn_sinks.weight", DType::kF32, 1, {4, 1, 1, 1}, 16});
  ExpectUnimplemented(stranger, HasSubstr("'blk.0.attn_sinks.weight' is not one that family 'llama' uses"));
  Subject one_bias = Subject::Dense();  // q alone
  one_bias.tensors().push_back({"blk.0.attn_q.bias", DType::kF32, 1, {64, 1, 1, 1}, 256});
  ExpectInvalid(one_bias, HasSubstr("'blk.0.attn_k.bias' is missing"));
}

TEST(TokenizerMetadata, LengthsTypesAndIds) {
  const auto read = [](Subject subject) { return ReadTokenizer(subject.metadata(), 512); };
  const TokenizerSpec spec = *read(Subject::Dense());
  EXPECT_EQ(spec.tokens.size(), 512u);
  EXPECT_EQ(spec.model, "gpt2");
  EXPECT_EQ(spec.eos_id, 258);
  EXPECT_EQ(spec.unk_id, -1);
  EXPECT_EQ(spec.types[257], TokenType::kControl);
  EXPECT_EQ(spec.merges[1], "th e");
  const auto error = [&](const std::string& key, GgufValue value) {
    return std::string(read(Subject::Dense().Set(key, std::move(value))).status().message());
  };
  EXPECT_THAT(error("tokenizer.ggml.eos_token_id", U32(512)),
              AllOf(HasSubstr("is 512"), HasSubstr("vocabulary, 512")));
  EXPECT_THAT(error("tokenizer.ggml.tokens", U32(1)), HasSubstr("u32, expected array of string"));
  EXPECT_THAT(error("tokenizer.ggml.merges", {GgufType::kArray, GgufArray{GgufType::kU8, 1, "x", {}}}),
              HasSubstr("array of u8, expected array of string"));
  EXPECT_THAT(error("tokenizer.ggml.token_type", {GgufType::kArray, GgufArray{GgufType::kI8, 2, "\1\1", {}}}),
              HasSubstr("has 2 elements, expected 512"));
  EXPECT_THAT(error("tokenizer.ggml.token_type",
                    {GgufType::kArray, GgufArray{GgufType::kI8, 512, std::string(512, '\7'), {}}}),
              HasSubstr("token 0 has type 7"));
  EXPECT_EQ(read(Subject::Dense().Set("tokenizer.ggml.eos_token_id", U32(0xffffffff)))->eos_id, -1);
  EXPECT_TRUE(read(Subject::Dense().Remove("tokenizer.ggml.tokens"))->tokens.empty());
  Subject llama3 = Subject::Dense();
  llama3.Set("tokenizer.ggml.pre", Text("llama-bpe")).Remove("tokenizer.ggml.add_bos_token");
  EXPECT_TRUE(read(llama3)->add_bos);
}

}  // namespace
}  // namespace moepool
