// Synthetic models: valid for every family and type, reproducible, with weights of the size they claim.
#include "common/model/synthetic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "common/model/families.h"
#include "common/model/gguf_source.h"
#include "common/model/synthetic_weights.h"
#include "common/tensor/matrix_view.h"
#include "tests/unit/model/test_files.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

TEST(Synthetic, EveryFamilyAndTypeIsAModel) {
  const TempDirectory directory;
  const std::string path = directory.File("synth.gguf");
  for (int type = 0; type < kDTypeCount; ++type) {
    for (const auto& [family, experts] : {std::pair("llama", 0),
                                          {"llama", 4},
                                          {"qwen2", 0},
                                          {"qwen2moe", 4},
                                          {"qwen3moe", 4},
                                          {"olmoe", 4},
                                          {"phimoe", 4}}) {
      SynthSpec spec;
      spec.family = family;
      spec.experts = experts;
      spec.experts_per_token = experts / 2;
      spec.shared_ffn = FindFamily(family)->shared_expert ? 160 : 0;
      spec.original_context = FindFamily(family)->longrope_mscale > 0 ? 64 : 0;
      spec.dtype = static_cast<DType>(type);
      spec.hidden = 256;
      spec.head_dim = 36;
      spec.heads = 6;
      spec.layers = 1;
      SCOPED_TRACE(std::string(Info(spec.dtype).name) + " " + family + " " + std::to_string(experts));
      ASSERT_TRUE(WriteSyntheticGguf(spec, path).ok());
      const absl::StatusOr<std::unique_ptr<ModelSource>> file = OpenGguf(path);
      ASSERT_TRUE(file.ok()) << file.status();
      EXPECT_EQ((*file)->Config().head_dim, 36);
      EXPECT_EQ((*file)->Find("blk.0.attn_q.weight")->dtype, spec.dtype);
      // 216 columns are whole blocks of no quantised type.
      const DType output = (*file)->Find("blk.0.attn_output.weight")->dtype;
      EXPECT_EQ(output, Info(spec.dtype).quantized ? DType::kF16 : spec.dtype);
      EXPECT_EQ(*(*file)->Digest(), *(*MakeSyntheticSource(spec))->Digest());
    }
  }
}

TEST(Synthetic, OptionsReachTheConfiguration) {
  SynthSpec spec;
  spec.qkv_bias = true;
  spec.tied_embeddings = true;
  spec.rope_freqs = true;
  spec.rope_linear_factor = 4;
  spec.rope_base = 5e5;
  const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
  const ModelConfig& config = source->Config();
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.rope.linear_factor, 4.0);
  EXPECT_EQ(config.rope.base, 5e5);
  ASSERT_EQ(config.rope.freq_factors.size(), 8u);
  for (const float factor : config.rope.freq_factors) {
    EXPECT_GE(factor, 0.9f);
    EXPECT_LE(factor, 7.1f);
  }
  EXPECT_EQ(source->Find("output.weight"), nullptr);
}

TEST(Synthetic, SplitExpertsMakeASourceOfTheSameExperts) {
  SynthSpec spec;
  spec.experts = 3;
  spec.experts_per_token = 2;
  spec.split_experts = true;
  const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
  EXPECT_EQ(source->Find("blk.0.ffn_gate_exps.weight"), nullptr);
  for (const char* name : {"blk.0.ffn_gate.0.weight", "blk.1.ffn_up.2.weight", "blk.1.ffn_down.1.weight"}) {
    EXPECT_NE(source->Find(name), nullptr) << name;
  }
  spec.split_experts = false;
  EXPECT_NE(*source->Digest(), *(*MakeSyntheticSource(spec))->Digest());
}

TEST(Synthetic, MoreBitsWhereLlamaCppGivesThem) {
  SynthSpec spec;
  spec.hidden = spec.ffn = 256;
  spec.head_dim = 64;
  spec.layers = 16;
  spec.dtype = DType::kQ4_K;
  spec.more_dtype = DType::kQ6_K;
  const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
  std::vector<int> more;
  for (int layer = 0; layer < spec.layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    const DType down = source->Find(prefix + "ffn_down.weight")->dtype;
    EXPECT_EQ(source->Find(prefix + "attn_v.weight")->dtype, down);
    EXPECT_EQ(source->Find(prefix + "ffn_up.weight")->dtype, DType::kQ4_K);
    if (down == DType::kQ6_K) more.push_back(layer);
  }
  EXPECT_THAT(more, ::testing::ElementsAre(0, 1, 4, 7, 10, 13, 14, 15));
  EXPECT_EQ(source->Find("output.weight")->dtype, DType::kQ6_K);
  EXPECT_EQ(source->Find("token_embd.weight")->dtype, DType::kQ4_K);
}

TEST(Synthetic, FilesRepeatBitForBitAndSeedsDiffer) {
  const TempDirectory directory;
  SynthSpec spec;
  ASSERT_TRUE(WriteSyntheticGguf(spec, directory.File("a")).ok());
  ASSERT_TRUE(WriteSyntheticGguf(spec, directory.File("b")).ok());
  spec.seed = 2;
  ASSERT_TRUE(WriteSyntheticGguf(spec, directory.File("c")).ok());
  EXPECT_EQ(ReadFile(directory.File("a")), ReadFile(directory.File("b")));
  EXPECT_NE(ReadFile(directory.File("a")), ReadFile(directory.File("c")));
  EXPECT_FALSE(std::filesystem::exists(directory.File("a.partial")));
}

TEST(Synthetic, BytesDoNotDependOnHowTheyAreAskedFor) {
  for (int type = 0; type < kDTypeCount; ++type) {
    const auto dtype = static_cast<DType>(type);
    SynthTensor tensor;
    tensor.info = {"t", dtype, 2, {512, 3, 1, 1}, static_cast<uint64_t>(RowBytes(dtype, 512) * 3)};
    std::vector<std::byte> whole(tensor.info.bytes);
    FillBytes(tensor, 7, 0, whole);
    for (uint64_t offset = 0; offset < whole.size(); offset += 61) {
      std::vector<std::byte> part(std::min<uint64_t>(97, whole.size() - offset));
      FillBytes(tensor, 7, offset, part);
      ASSERT_EQ(std::memcmp(part.data(), whole.data() + offset, part.size()), 0)
          << Info(dtype).name << " at " << offset;
    }
  }
}

TEST(Synthetic, WeightsHaveTheDeviationAskedForAndNoMean) {
  for (int type = 0; type < kDTypeCount; ++type) {
    const auto dtype = static_cast<DType>(type);
    SynthTensor tensor;
    tensor.deviation = 0.02f;
    constexpr int64_t kElements = 1 << 18;
    tensor.info = {"t", dtype, 1, {kElements, 1, 1, 1}, static_cast<uint64_t>(RowBytes(dtype, kElements))};
    std::vector<std::byte> bytes(tensor.info.bytes);
    FillBytes(tensor, 1, 0, bytes);
    std::vector<float> values(kElements);
    DequantizeRow({dtype, 1, kElements, bytes.data(), 0, 0}, 0, values.data());
    double sum = 0;
    double squares = 0;
    for (const float value : values) {
      sum += value;
      squares += static_cast<double>(value) * value;
    }
    EXPECT_NEAR(std::sqrt(squares / kElements), 0.02, 0.0003) << Info(dtype).name;
    EXPECT_NEAR(sum / kElements, 0, 0.0003) << Info(dtype).name;
  }
}

TEST(Synthetic, TokenizerHoldsEveryByteOnce) {
  const std::unique_ptr<ModelSource> source = *MakeSyntheticSource({.vocab = 300});
  const TokenizerSpec& spec = source->Tokenizer();
  ASSERT_EQ(spec.tokens.size(), 300u);
  EXPECT_EQ(std::set<std::string>(spec.tokens.begin(), spec.tokens.end()).size(), 300u);
  EXPECT_EQ(spec.tokens['A'], "A");
  EXPECT_EQ(spec.tokens[' '], "\u0120");
  EXPECT_EQ(spec.tokens['\n'], "\u010a");
  EXPECT_EQ(spec.tokens[0xff], "\u00ff");
  EXPECT_EQ(spec.tokens[256], "<|endoftext|>");
  for (const std::string& merge : spec.merges) {  // each result is a token
    std::string joined = merge;
    joined.erase(joined.find(' '), 1);
    EXPECT_THAT(spec.tokens, ::testing::Contains(joined));
  }
  EXPECT_THAT(spec.chat_template, HasSubstr("add_generation_prompt"));
}

TEST(Synthetic, SpecsOutOfRangeNameTheField) {
  const auto error = [](auto change) {
    SynthSpec spec;
    change(&spec);
    const absl::Status status = MakeSyntheticSource(spec).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(WriteSyntheticGguf(spec, "/nonexistent/directory/file").code(),
              absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(error([](SynthSpec* s) { s->hidden = 0; }), HasSubstr("hidden is 0, expected within"));
  EXPECT_THAT(error([](SynthSpec* s) { s->vocab = 266; }), HasSubstr("vocab is 266"));
  EXPECT_THAT(error([](SynthSpec* s) { s->experts = 4; }), HasSubstr("experts_per_token is 0"));
  EXPECT_THAT(error([](SynthSpec* s) { s->family = "gpt2"; }), HasSubstr("'gpt2'"));
  EXPECT_THAT(error([](SynthSpec* s) { s->family = "qwen3moe"; }),
              HasSubstr("experts is 0, expected within 1 to 65536 for family 'qwen3moe'"));
  EXPECT_THAT(error([](SynthSpec* s) { s->shared_ffn = 32; }), HasSubstr("shared_ffn is 32"));
  EXPECT_THAT(error([](SynthSpec* s) { s->split_experts = true; }), HasSubstr("split_experts is 1"));
  EXPECT_THAT(error([](SynthSpec* s) { s->original_context = 64; }), HasSubstr("original_context is 64"));
  EXPECT_THAT(error([](SynthSpec* s) {
                s->family = "qwen2";
                s->sliding_window = 24;
              }),
              HasSubstr("sliding_window is 24, expected within 0 to 0 for family 'qwen2'"));
  EXPECT_THAT(error([](SynthSpec* s) {
                s->family = "olmoe";
                s->experts = 4;
                s->experts_per_token = 2;
                s->tied_embeddings = true;
              }),
              HasSubstr("tied_embeddings is 1"));
  EXPECT_THAT(error([](SynthSpec* s) { s->kv_heads = 3; }), HasSubstr("a divisor of the 4 heads"));
  EXPECT_THAT(error([](SynthSpec* s) { s->head_dim = 15; }), HasSubstr("is 15"));
  EXPECT_EQ(WriteSyntheticGguf({}, "/nonexistent/directory/file").code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace moepool
