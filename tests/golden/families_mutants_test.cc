// That the golden comparison can fail: each clause of a gate's rule, and each field of a family's row,
// changed alone, must not pass.
#include <gtest/gtest.h>

#include <functional>

#include "common/model/gate_policy.h"
#include "tests/golden/families_golden.h"
#include "tests/golden/gate_mutants.h"

namespace moepool {
namespace {

// The same weights under another configuration.
class MutatedSource final : public ModelSource {
 public:
  MutatedSource(std::unique_ptr<ModelSource> source, const std::function<void(ModelConfig*)>& mutate)
      : source_(std::move(source)), config_(source_->Config()) {
    mutate(&config_);
  }
  const ModelConfig& Config() const override { return config_; }
  const TokenizerSpec& Tokenizer() const override { return source_->Tokenizer(); }
  const std::vector<TensorInfo>& Tensors() const override { return source_->Tensors(); }
  const TensorInfo* Find(std::string_view name) const override { return source_->Find(name); }
  absl::StatusOr<TensorBytes> Range(std::string_view name, uint64_t offset, uint64_t bytes) const override {
    return source_->Range(name, offset, bytes);
  }
  absl::StatusOr<ModelDigest> Digest() const override { return source_->Digest(); }

 private:
  const std::unique_ptr<ModelSource> source_;
  ModelConfig config_;
};

bool Passes(const std::string& name, const std::function<void(ModelConfig*)>& mutate) {
  const Golden golden = ReadGolden(name);
  return RunGolden(golden, std::make_shared<MutatedSource>(MakeSyntheticSource(golden.spec).value(), mutate),
                   512)
      .Passes();
}
bool Passes(const std::string& name, std::shared_ptr<const GatePolicy> gate) {
  const Golden golden = ReadGolden(name);
  return RunGolden(golden, MakeSyntheticSource(golden.spec).value(), 512, std::move(gate)).Passes();
}

TEST(FamilyMutants, Softmax) {
  const auto gate = [](bool renormalize, int skip) {
    auto rule = std::make_shared<SoftmaxGateRule>();
    rule->renormalize = renormalize;
    rule->skip = skip;
    return rule;
  };
  for (const auto& [name, renormalize] : {std::pair("mixtral_16x2", true),
                                          {"qwen3moe_6x3", true},
                                          {"qwen2moe_12x4", false},
                                          {"qwen2moe_long", false}}) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(Passes(name, gate(renormalize, 0)));
    EXPECT_FALSE(Passes(name, gate(!renormalize, 0)));
    EXPECT_FALSE(Passes(name, gate(renormalize, 1)));
  }
}

TEST(FamilyMutants, SparseMixer) {
  const auto gate = [](const std::function<void(SparseMixerGateRule*)>& mutate) {
    auto rule = std::make_shared<SparseMixerGateRule>();
    mutate(rule.get());
    return rule;
  };
  for (const char* name : {"phimoe_short", "phimoe_beyond"}) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(Passes(name, gate([](SparseMixerGateRule*) {})));
    EXPECT_FALSE(Passes(name, gate([](SparseMixerGateRule* rule) { rule->eps = 0.1; })));
    EXPECT_FALSE(Passes(name, gate([](SparseMixerGateRule* rule) { rule->first_mask = false; })));
    EXPECT_FALSE(Passes(name, gate([](SparseMixerGateRule* rule) { rule->second_mask = false; })));
    EXPECT_FALSE(Passes(name, gate([](SparseMixerGateRule* rule) { rule->renormalize = true; })));
    auto softmax = std::make_shared<SoftmaxGateRule>();
    softmax->renormalize = true;  // llama.cpp's
    EXPECT_FALSE(Passes(name, softmax));
  }
  // Of three experts the second is mostly negative, where the sign of the divisor shows.
  EXPECT_FALSE(Passes("phimoe_plain", gate([](SparseMixerGateRule* rule) { rule->by_size = false; })));
}

TEST(FamilyMutants, SharedExpert) {
  for (const char* name : {"qwen2moe_12x4", "qwen2moe_long"}) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(Passes(name, [](ModelConfig*) {}));
    EXPECT_FALSE(Passes(name, [](ModelConfig* config) { config->shared_gated = false; }));
    EXPECT_FALSE(Passes(name, [](ModelConfig* config) { config->shared_ffn = 0; }));
  }
}

TEST(FamilyMutants, NormsAndBiases) {
  const char* const name = "phimoe_short";
  EXPECT_TRUE(Passes(name, [](ModelConfig*) {}));
  EXPECT_FALSE(Passes(name, [](ModelConfig* config) { config->norm = NormKind::kRms; }));
  EXPECT_FALSE(Passes(name, [](ModelConfig* config) { config->norm_bias = false; }));
  EXPECT_FALSE(Passes(name, [](ModelConfig* config) { config->qkv_bias = false; }));
  EXPECT_FALSE(Passes(name, [](ModelConfig* config) { config->attn_output_bias = false; }));
  EXPECT_FALSE(Passes(name, [](ModelConfig* config) { config->output_bias = false; }));
  EXPECT_FALSE(Passes("qwen2", [](ModelConfig* config) { config->qkv_bias = false; }));
}

TEST(FamilyMutants, Rope) {
  EXPECT_FALSE(Passes("qwen2", [](ModelConfig* config) { config->rope.kind = RopeKind::kInterleaved; }));
  // One position more or less of the original context.
  EXPECT_FALSE(
      Passes("phimoe_short", [](ModelConfig* config) { config->rope.original_context_tokens = 63; }));
  EXPECT_FALSE(
      Passes("phimoe_beyond", [](ModelConfig* config) { config->rope.original_context_tokens = 65; }));
  EXPECT_FALSE(Passes("phimoe_short", [](ModelConfig* config) { config->rope.mscale = 1.19; }));
  EXPECT_FALSE(Passes("phimoe_long", [](ModelConfig* config) { config->rope.long_mscale = 1.19; }));
}

TEST(FamilyMutants, Attention) {
  for (const char* name : {"mistral_window", "mixtral_window"}) {
    SCOPED_TRACE(name);
    EXPECT_FALSE(Passes(name, [](ModelConfig* config) { config->sliding_window = 0; }));
    EXPECT_FALSE(Passes(name, [](ModelConfig* config) { --config->sliding_window; }));
    EXPECT_FALSE(Passes(name, [](ModelConfig* config) { ++config->sliding_window; }));
  }
  EXPECT_FALSE(Passes("olmoe_16x3", [](ModelConfig* config) { config->qk_norm = QkNorm::kNone; }));
  EXPECT_FALSE(Passes("qwen3moe_16x2", [](ModelConfig* config) { config->qk_norm = QkNorm::kNone; }));
}

}  // namespace
}  // namespace moepool
