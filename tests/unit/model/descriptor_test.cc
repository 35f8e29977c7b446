// Metadata to configuration: the families, their options, and every hyperparameter out of its range.
#include "common/model/descriptor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/model/families.h"
#include "common/model/tokenizer_metadata.h"
#include "tests/unit/model/descriptor_subject.h"

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Descriptor, DenseLlama) {
  const ModelConfig config = *Subject::Dense().Describe();
  EXPECT_TRUE(config.dense());
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.experts, kDenseSlices);
  EXPECT_EQ(config.experts_per_token, kDenseSlices);
  EXPECT_EQ(config.ffn, 128);
  EXPECT_EQ(config.rope.kind, RopeKind::kInterleaved);
  EXPECT_EQ(config.rope.dims, config.head_dim);
  EXPECT_EQ(config.qk_norm, QkNorm::kNone);
  EXPECT_FALSE(config.tied_embeddings);
}

TEST(Descriptor, Mixtral) {
  const ModelConfig config = *Subject::Experts("llama").Describe();
  EXPECT_EQ(config.gate.kind, GateKind::kSoftmax);
  EXPECT_TRUE(config.gate.renormalize);
  EXPECT_EQ(config.experts, 8);
  EXPECT_EQ(config.experts_per_token, 3);
}

TEST(Descriptor, Qwen3Moe) {
  Subject subject = Subject::Experts("qwen3moe");
  subject.Set("qwen3moe.feed_forward_length", U32(9999));  // not that of an expert
  const ModelConfig config = *subject.Describe();
  EXPECT_EQ(config.ffn, 128);
  EXPECT_EQ(config.qk_norm, QkNorm::kHead);
  EXPECT_TRUE(config.gate.renormalize);
  EXPECT_EQ(config.rope.kind, RopeKind::kNeox);
  EXPECT_FALSE(
      (*subject.Set("qwen3moe.expert_weights_norm", {GgufType::kBool, false}).Describe()).gate.renormalize);
  ExpectInvalid(subject.Set("qwen3moe.expert_count", U32(0)), HasSubstr("'qwen3moe.expert_count' is 0"));
}

TEST(Descriptor, DefaultsOfAbsentKeys) {
  Subject subject = Subject::Dense();
  for (const char* key : {"general.name", "llama.attention.key_length", "llama.attention.value_length",
                          "llama.rope.dimension_count", "llama.rope.freq_base", "llama.vocab_size"}) {
    subject.Remove(key);
  }
  const ModelConfig config = *subject.Describe();
  EXPECT_EQ(config.name, "stem");
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.rope.base, 10000.0);
  EXPECT_EQ(config.vocab_size, 512);
}

// Names and templates travel in messages that take nothing but UTF-8.
TEST(Descriptor, StringsThatAreNotUtf8) {
  ExpectInvalid(Subject::Dense().Set("general.name", Text("bad\xff")),
                AllOf(HasSubstr("'general.name' is 'bad\\xff'"), HasSubstr("not UTF-8")));
  const Subject subject = Subject::Dense().Set("tokenizer.chat_template", Text("\xed\xa0\x80"));
  EXPECT_EQ(ReadTokenizer(subject.metadata(), 512).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Subject::Dense().Set("general.name", Text("naïve 模型\t")).Describe()->name, "naïve 模型\t");
}

TEST(Descriptor, FamiliesThatAreNotBuiltIn) {
  ExpectUnimplemented(
      Subject::Dense().Set("general.architecture", Text("gpt2")),
      AllOf(HasSubstr("'gpt2'"), HasSubstr("llama, qwen2, qwen2moe, qwen3moe, olmoe, phimoe")));
  ExpectInvalid(Subject::Dense().Remove("general.architecture"),
                HasSubstr("'general.architecture' is missing"));
  ExpectInvalid(Subject::Dense().Set("general.architecture", U32(1)),
                HasSubstr("is of type u32, expected string"));
}

TEST(Descriptor, RopeScaling) {
  Subject subject = Subject::Dense();
  subject.Set("llama.rope.scaling.type", Text("linear")).Set("llama.rope.scaling.factor", F32(4));
  EXPECT_EQ(subject.Describe()->rope.linear_factor, 4.0);
  EXPECT_EQ(subject.Set("llama.rope.scaling.type", Text("none")).Describe()->rope.linear_factor, 1.0);
  ExpectUnimplemented(subject.Set("llama.rope.scaling.type", Text("yarn")),
                      HasSubstr("is 'yarn', not one of"));
  EXPECT_EQ(Subject::Dense().Set("llama.rope.scale_linear", F32(2)).Describe()->rope.linear_factor, 2.0);
  EXPECT_EQ(Subject::Dense().Set("llama.rope.scaling.factor", F32(0)).Describe()->rope.linear_factor, 1.0);
  ExpectInvalid(Subject::Dense().Set("llama.rope.scaling.factor", F32(-1)),
                HasSubstr("is -1, expected positive"));
}

TEST(Descriptor, HyperparametersOutOfRange) {
  struct Case {
    const char* key;
    uint64_t value;
  };
  for (const Case& c : std::initializer_list<Case>{{"embedding_length", 0},
                                                   {"embedding_length", (1 << 20) + 1},
                                                   {"embedding_length", uint64_t{1} << 32},
                                                   {"block_count", 0},
                                                   {"block_count", 1025},
                                                   {"context_length", 0},
                                                   {"context_length", 0xffffffff},
                                                   {"feed_forward_length", 0},
                                                   {"attention.head_count", 0},
                                                   {"attention.head_count", 4097},
                                                   {"attention.head_count_kv", 0},
                                                   {"attention.head_count_kv", 5},
                                                   {"attention.head_count_kv", 3},
                                                   {"attention.key_length", 0},
                                                   {"attention.key_length", 15},
                                                   {"attention.key_length", 514},
                                                   {"attention.value_length", 8},
                                                   {"rope.dimension_count", 18},
                                                   {"rope.dimension_count", 7},
                                                   {"vocab_size", 0}}) {
    const std::string key = std::string("llama.") + c.key;
    SCOPED_TRACE(key);
    ExpectInvalid(Subject::Dense().Set(key, U32(c.value)),
                  AllOf(HasSubstr("'" + key + "' is "), HasSubstr("expected")));
  }
  for (const char* key : {"embedding_length", "block_count", "context_length", "feed_forward_length",
                          "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    SCOPED_TRACE(key);
    EXPECT_EQ(Subject::Dense().Remove(std::string("llama.") + key).Describe().status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  ExpectInvalid(Subject::Dense().Set("llama.block_count", F32(2)),
                HasSubstr("is of type f32, expected an integer"));
  ExpectInvalid(
      Subject::Dense().Remove("llama.attention.key_length").Set("llama.attention.head_count", U32(6)),
      HasSubstr("a divisor of the hidden size 64"));
}

TEST(Descriptor, FloatsOutOfRange) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  for (const double bad : {0.0, -1.0, nan, inf}) {
    ExpectInvalid(Subject::Dense().Set("llama.rope.freq_base", F32(bad)),
                  HasSubstr("'llama.rope.freq_base'"));
    ExpectInvalid(Subject::Dense().Set("llama.attention.layer_norm_rms_epsilon", F32(bad)),
                  HasSubstr("epsilon'"));
  }
  ExpectInvalid(Subject::Dense().Set("llama.attention.layer_norm_rms_epsilon", F32(2)),
                HasSubstr("at most 1"));
  ExpectInvalid(Subject::Dense().Set("llama.rope.freq_base", F32(0.5)),
                AllOf(HasSubstr("is 0.5"), HasSubstr("at least 1")));
  ExpectInvalid(Subject::Dense().Set("llama.rope.scaling.factor", F32(1e-8)),
                HasSubstr("'llama.rope.scaling.factor' is 1e-08, expected at least"));
  ExpectInvalid(Subject::Experts("qwen3moe").Set("qwen3moe.expert_weights_scale", {GgufType::kF64, 1e300}),
                HasSubstr("'qwen3moe.expert_weights_scale' is 1e+300, expected at most 1e+06"));
}

TEST(Descriptor, ExpertCounts) {
  const auto with = [](const char* key, uint64_t value) {
    return Subject::Experts("llama").Set(key, U32(value));
  };
  ExpectInvalid(with("llama.expert_count", 65537), HasSubstr("is 65537, expected within 0 to 65536"));
  ExpectInvalid(with("llama.expert_used_count", 9), HasSubstr("is 9, expected within 1 to 8"));
  ExpectInvalid(with("llama.expert_used_count", 0), HasSubstr("is 0, expected within 1 to 8"));
  ExpectInvalid(with("llama.expert_count", 7),
                HasSubstr("'blk.0.ffn_gate_inp.weight' has shape [64, 8], expected [64, 7]"));
}

TEST(Descriptor, OptionsThatWouldChangeTheAnswer) {
  ExpectUnimplemented(Subject::Experts("llama").Set("llama.expert_gating_func", U32(2)),
                      HasSubstr("'llama.expert_gating_func' is 2"));
  EXPECT_TRUE(Subject::Experts("llama").Set("llama.expert_gating_func", U32(1)).Describe().ok());
  ExpectUnimplemented(Subject::Experts("qwen3moe").Set("qwen3moe.expert_shared_count", U32(1)),
                      HasSubstr("is 1"));
  ExpectUnimplemented(Subject::Dense().Set("llama.logit_scale", F32(0.5)), HasSubstr("is 0.5"));
  ExpectUnimplemented(Subject::Dense().Set("llama.logit_scale", Text("1")), HasSubstr("is '1'"));
  ExpectUnimplemented(Subject::Experts("olmoe").Set("olmoe.attention.clamp_kqv", F32(8)),
                      HasSubstr("'olmoe.attention.clamp_kqv' is 8"));
}

TEST(Descriptor, SlidingWindows) {
  const auto window = [](uint64_t value) {
    return Subject::Dense().Set("llama.attention.sliding_window", U32(value));
  };
  EXPECT_EQ(window(128).Describe()->sliding_window, 128);
  EXPECT_EQ(window(511).Describe()->sliding_window, 511);
  EXPECT_EQ(window(512).Describe()->sliding_window, 0);  // the context: it hides nothing
  EXPECT_EQ(window(0).Describe()->sliding_window, 0);
  ExpectUnimplemented(Subject::Experts("qwen3moe").Set("qwen3moe.attention.sliding_window", U32(128)),
                      AllOf(HasSubstr("'qwen3moe.attention.sliding_window' is 128"), HasSubstr("of 512")));
  ExpectUnimplemented(window(128).Set("llama.attention.sliding_window_pattern", U32(6)),
                      HasSubstr("sliding_window_pattern' is 6"));
}

TEST(Descriptor, Qwen2) {
  SynthSpec spec;
  spec.family = "qwen2";
  const ModelConfig config = *Subject(spec).Describe();
  EXPECT_TRUE(config.dense());
  EXPECT_EQ(config.experts, kDenseSlices);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.attn_output_bias);
  EXPECT_EQ(config.rope.kind, RopeKind::kNeox);
  ExpectInvalid(Subject(spec).Set("qwen2.expert_count", U32(4)),
                HasSubstr("'qwen2.expert_count' is 4, expected within 0 to 0"));
  Subject without = Subject(spec);
  for (TensorInfo& tensor : without.tensors()) {
    if (tensor.name == "blk.0.attn_q.bias") tensor.name = "blk.0.attn_p.bias";
  }
  ExpectInvalid(without, HasSubstr("'blk.0.attn_q.bias' is missing"));
}

TEST(Descriptor, Qwen2Moe) {
  Subject subject = Subject::Experts("qwen2moe");
  const ModelConfig config = *subject.Describe();
  EXPECT_EQ(config.shared_ffn, 96);
  EXPECT_TRUE(config.shared_gated);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_EQ(config.gate.kind, GateKind::kSoftmax);
  EXPECT_FALSE(config.gate.renormalize);
  EXPECT_TRUE(subject.Set("qwen2moe.expert_shared_count", U32(1)).Describe().ok());
  ExpectUnimplemented(subject.Set("qwen2moe.expert_shared_count", U32(2)), HasSubstr("is 2; only 1"));
  subject.Remove("qwen2moe.expert_shared_count");
  ExpectInvalid(subject.Set("qwen2moe.expert_shared_feed_forward_length", U32(64)),
                HasSubstr("'blk.0.ffn_gate_shexp.weight' has shape [64, 96], expected [64, 64]"));
  // As before the key: the size of the FFN.
  subject.Remove("qwen2moe.expert_shared_feed_forward_length").Set("qwen2moe.feed_forward_length", U32(96));
  EXPECT_EQ(subject.Describe()->shared_ffn, 96);
}

TEST(Descriptor, Olmoe) {
  Subject subject = Subject::Experts("olmoe");
  const ModelConfig config = *subject.Describe();
  EXPECT_EQ(config.qk_norm, QkNorm::kRow);
  EXPECT_FALSE(config.gate.renormalize);
  EXPECT_EQ(config.rope.kind, RopeKind::kNeox);
  subject.Tensor("blk.1.attn_k_norm.weight")->dims[0] = 16;  // of one head
  ExpectInvalid(subject, HasSubstr("'blk.1.attn_k_norm.weight' has shape [16], expected [32]"));
}

TEST(Descriptor, PhiMoe) {
  Subject subject = Subject::Experts("phimoe");
  const ModelConfig config = *subject.Describe();
  EXPECT_EQ(config.norm, NormKind::kLayer);
  EXPECT_TRUE(config.norm_bias && config.qkv_bias && config.attn_output_bias && config.output_bias);
  EXPECT_EQ(config.gate.kind, GateKind::kSparseMixer);
  EXPECT_EQ(config.gate.jitter_eps, 0.01f);
  EXPECT_EQ(config.rope.original_context_tokens, 128);
  EXPECT_EQ(config.rope.mscale, 1.243163121016122);  // whatever attn_factor says
  EXPECT_EQ(config.rope.long_mscale, 1.243163121016122);
  EXPECT_TRUE(subject.Set("phimoe.expert_gating_func", U32(1)).Describe().ok());
  ExpectUnimplemented(subject.Set("phimoe.expert_gating_func", U32(2)), HasSubstr("is 2; only 1"));
  subject.Remove("phimoe.expert_gating_func");
  ExpectInvalid(subject.Set("phimoe.expert_used_count", U32(3)),
                HasSubstr("'phimoe.expert_used_count' is 3, expected within 2 to 2"));
}

TEST(Descriptor, SparseMixersWeightsStandAsTheyAre) {
  const auto subject = [] { return Subject::Experts("phimoe"); };
  EXPECT_TRUE(subject().Set("phimoe.expert_weights_norm", {GgufType::kBool, false}).Describe().ok());
  ExpectUnimplemented(subject().Set("phimoe.expert_weights_norm", {GgufType::kBool, true}),
                      HasSubstr("'phimoe.expert_weights_norm' is true, not false"));
  ExpectUnimplemented(subject().Set("phimoe.expert_weights_scale", F32(2)),
                      HasSubstr("'phimoe.expert_weights_scale' is 2; only 1"));
}

// Phi-3.5-MoE's converter writes no head size, no rope.scaling.type, and the context as the window.
TEST(Descriptor, KeysAsPhi35MoesConverterWritesThem) {
  Subject subject = Subject::Experts("phimoe");
  for (const char* key : {"attention.key_length", "attention.value_length", "vocab_size"}) {
    subject.Remove(std::string("phimoe.") + key);
  }
  subject.Set("phimoe.attention.sliding_window", U32(512));
  const ModelConfig config = *subject.Describe();
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.vocab_size, 512);
  EXPECT_EQ(config.sliding_window, 0);
  EXPECT_EQ(subject.Set("phimoe.attention.sliding_window", U32(0)).Describe()->sliding_window, 0);
}

TEST(Descriptor, LongRope) {
  const auto subject = [] { return Subject::Experts("phimoe"); };
  EXPECT_TRUE(subject().Set("phimoe.rope.scaling.type", Text("longrope")).Describe().ok());
  ExpectUnimplemented(subject().Set("phimoe.rope.scaling.type", Text("yarn")),
                      HasSubstr("'phimoe.rope.scaling.type' is 'yarn', not longrope"));
  ExpectInvalid(subject().Remove("phimoe.rope.scaling.original_context_length"),
                HasSubstr("'phimoe.rope.scaling.original_context_length' is missing"));
  for (const char* name : {"rope_factors_short.weight", "rope_factors_long.weight"}) {
    Subject one = subject();
    std::erase_if(one.tensors(), [&](const TensorInfo& tensor) { return tensor.name == name; });
    ExpectInvalid(one, HasSubstr("'" + std::string(name) + "' is missing"));
  }
  // Without factors there is nothing to stretch, and attn_factor would change the answer.
  Subject plain = subject();
  std::erase_if(plain.tensors(), [](const TensorInfo& tensor) { return tensor.name.starts_with("rope_"); });
  ExpectUnimplemented(plain, HasSubstr("'phimoe.rope.scaling.attn_factor' is"));
  const ModelConfig config = *plain.Remove("phimoe.rope.scaling.attn_factor").Describe();
  EXPECT_EQ(config.rope.mscale, 1.0);
  // In a family that has none.
  Subject llama = Subject::Dense();
  llama.tensors().push_back({"rope_factors_long.weight", DType::kF32, 1, {8, 1, 1, 1}, 32});
  ExpectUnimplemented(llama, HasSubstr("'rope_factors_long.weight' is not one that family 'llama' uses"));
}

TEST(Descriptor, FamiliesHaveNamesOfTheirOwn) {
  for (const Family& family : Families()) {
    EXPECT_EQ(FindFamily(family.name), &family);
    EXPECT_TRUE(family.dense || family.experts);
  }
  EXPECT_EQ(FindFamily("llama4"), nullptr);
}

TEST(FreqFactors, NumberAndValues) {
  ModelConfig config = *Subject::Dense().Describe();
  std::vector<float> factors(8, 2.0f);
  EXPECT_TRUE(SetRopeFactors(kRopeFreqsTensor, factors, &config).ok());
  EXPECT_EQ(config.rope.freq_factors, factors);
  factors[3] = 0;
  EXPECT_THAT(std::string(SetRopeFactors(kRopeFreqsTensor, factors, &config).message()),
              HasSubstr("factor 3 is 0"));
  factors[3] = 1e-9f;
  EXPECT_THAT(std::string(SetRopeFactors(kRopeFreqsTensor, factors, &config).message()),
              AllOf(HasSubstr("factor 3 is 1e-09"), HasSubstr("context of 512")));
  EXPECT_FALSE(SetRopeFactors(kRopeFreqsTensor, std::vector<float>(7, 1.0f), &config).ok());
  EXPECT_TRUE(config.rope.long_factors.empty());
  EXPECT_TRUE(SetRopeFactors(kRopeLongTensor, std::vector<float>(8, 3.0f), &config).ok());
  EXPECT_EQ(config.rope.long_factors, std::vector<float>(8, 3.0f));
  EXPECT_EQ(config.rope.freq_factors, std::vector<float>(8, 2.0f));
  EXPECT_THAT(std::string(SetRopeFactors(kRopeLongTensor, std::vector<float>(8, -1.0f), &config).message()),
              AllOf(HasSubstr("'rope_factors_long.weight': factor 0 is -1")));
}

TEST(RopeSetFor, LongBeyondTheOriginalContext) {
  RopeConfig rope;
  rope.original_context_tokens = 64;
  EXPECT_EQ(RopeSetFor(rope, 1000), RopeSet::kShort);  // no second set
  rope.long_factors = {1.0f};
  EXPECT_EQ(RopeSetFor(rope, 64), RopeSet::kShort);
  EXPECT_EQ(RopeSetFor(rope, 65), RopeSet::kLong);
}

}  // namespace
}  // namespace moepool
