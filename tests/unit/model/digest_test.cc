// The digest: every field of a configuration on which answers depend changes it.
#include "common/model/digest.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

namespace moepool {
namespace {

ModelDigest Digest(const std::function<void(ModelConfig*)>& change) {
  ModelConfig config;
  change(&config);
  const auto read = [](const TensorInfo&, uint64_t, std::span<std::byte>) { return absl::OkStatus(); };
  return *ComputeDigest(config, TensorTable({}), read);
}

TEST(Digest, EveryFieldChangesIt) {
  const std::function<void(ModelConfig*)> changes[] = {
      [](ModelConfig*) {},
      [](ModelConfig* c) { c->family = "llama"; },
      [](ModelConfig* c) { c->vocab_size = 7; },
      [](ModelConfig* c) { c->hidden = 7; },
      [](ModelConfig* c) { c->layers = 7; },
      [](ModelConfig* c) { c->heads = 7; },
      [](ModelConfig* c) { c->kv_heads = 7; },
      [](ModelConfig* c) { c->head_dim = 7; },
      [](ModelConfig* c) { c->context_tokens = 7; },
      [](ModelConfig* c) { c->norm = NormKind::kLayer; },
      [](ModelConfig* c) { c->norm_eps = 1e-6f; },
      [](ModelConfig* c) { c->norm_bias = true; },
      [](ModelConfig* c) { c->qkv_bias = true; },
      [](ModelConfig* c) { c->attn_output_bias = true; },
      [](ModelConfig* c) { c->output_bias = true; },
      [](ModelConfig* c) { c->qk_norm = QkNorm::kHead; },
      [](ModelConfig* c) { c->qk_norm = QkNorm::kRow; },
      [](ModelConfig* c) { c->sliding_window = 7; },
      [](ModelConfig* c) { c->tied_embeddings = true; },
      [](ModelConfig* c) { c->rope.kind = RopeKind::kNeox; },
      [](ModelConfig* c) { c->rope.dims = 7; },
      [](ModelConfig* c) { c->rope.base = 7; },
      [](ModelConfig* c) { c->rope.linear_factor = 7; },
      [](ModelConfig* c) { c->rope.freq_factors = {7}; },
      [](ModelConfig* c) { c->rope.long_factors = {7}; },
      [](ModelConfig* c) { c->rope.original_context_tokens = 7; },
      [](ModelConfig* c) { c->rope.mscale = 7; },
      [](ModelConfig* c) { c->rope.long_mscale = 7; },
      [](ModelConfig* c) { c->gate.kind = GateKind::kSparseMixer; },
      [](ModelConfig* c) { c->gate.renormalize = true; },
      [](ModelConfig* c) { c->gate.scale = 7; },
      [](ModelConfig* c) { c->gate.jitter_eps = 7; },
      [](ModelConfig* c) { c->experts = 7; },
      [](ModelConfig* c) { c->experts_per_token = 7; },
      [](ModelConfig* c) { c->ffn = 7; },
      [](ModelConfig* c) { c->shared_ffn = 7; },
      [](ModelConfig* c) { c->shared_gated = true; },
  };
  std::set<ModelDigest> digests;
  for (const auto& change : changes) EXPECT_TRUE(digests.insert(Digest(change)).second) << digests.size();
  // Of the model, not of the file: its name is not in it.
  EXPECT_EQ(Digest([](ModelConfig* c) { c->name = "x"; }), Digest([](ModelConfig*) {}));
}

}  // namespace
}  // namespace moepool
