// ComputeDigest (digest.h).
#include "common/model/digest.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <type_traits>
#include <vector>

#include "common/base/parallel_status.h"
#include "common/base/status_macros.h"
#include "common/model/sha256.h"

namespace moepool {
namespace {

constexpr uint64_t kChunkBytes = 256 << 10;              // is still in the L2 cache when it is hashed
constexpr std::string_view kFormat = "moepool model 2";  // changes with anything below

// Fields in a fixed order and width, little-endian; strings and lists behind their length.
class Canonical {
 public:
  template <typename T>
  void Add(T value) {
    static_assert(std::is_arithmetic_v<T> && std::endian::native == std::endian::little);
    sha_.Update(&value, sizeof(value));
  }
  void Add(std::string_view text) {
    Add(static_cast<uint64_t>(text.size()));
    sha_.Update(text);
  }
  void Raw(const ModelDigest& digest) { sha_.Update(digest.data(), digest.size()); }
  ModelDigest Finish() { return sha_.Finish(); }

 private:
  Sha256 sha_;
};

void AddConfig(const ModelConfig& config, Canonical* out) {
  out->Add(std::string_view(config.family));
  for (const int value :
       {config.vocab_size, config.hidden, config.layers, config.heads, config.kv_heads, config.head_dim,
        config.context_tokens, config.sliding_window, config.experts, config.experts_per_token, config.ffn,
        config.shared_ffn, config.rope.dims, config.rope.original_context_tokens}) {
    out->Add(static_cast<int32_t>(value));
  }
  for (const bool flag : {config.norm_bias, config.qkv_bias, config.attn_output_bias, config.output_bias,
                          config.tied_embeddings, config.gate.renormalize, config.shared_gated}) {
    out->Add(static_cast<uint8_t>(flag));
  }
  for (const uint8_t choice :
       {static_cast<uint8_t>(config.norm), static_cast<uint8_t>(config.qk_norm),
        static_cast<uint8_t>(config.rope.kind), static_cast<uint8_t>(config.activation),
        static_cast<uint8_t>(config.gate.kind)}) {
    out->Add(choice);
  }
  for (const float value : {config.norm_eps, config.gate.scale, config.gate.jitter_eps}) out->Add(value);
  for (const double value :
       {config.rope.base, config.rope.linear_factor, config.rope.mscale, config.rope.long_mscale}) {
    out->Add(value);
  }
  for (const std::vector<float>* factors : {&config.rope.freq_factors, &config.rope.long_factors}) {
    out->Add(static_cast<uint64_t>(factors->size()));
    for (const float factor : *factors) out->Add(factor);
  }
}

absl::StatusOr<ModelDigest> TensorDigest(const TensorInfo& tensor, std::span<std::byte> buffer,
                                         TensorReadAt read) {
  Sha256 sha;
  for (uint64_t offset = 0; offset < tensor.bytes;) {
    const std::span<std::byte> chunk = buffer.first(std::min<uint64_t>(buffer.size(), tensor.bytes - offset));
    MOEPOOL_RETURN_IF_ERROR(read(tensor, offset, chunk));
    sha.Update(chunk.data(), chunk.size());
    offset += chunk.size();
  }
  return sha.Finish();
}

}  // namespace

absl::StatusOr<ModelDigest> ComputeDigest(const ModelConfig& config, const TensorTable& tensors,
                                          TensorReadAt read) {
  const std::vector<TensorInfo>& all = tensors.tensors();
  // The largest first, so that no thread is left alone with one at the end.
  std::vector<size_t> by_size(all.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return all[a].bytes > all[b].bytes; });
  std::vector<ModelDigest> digests(all.size());
  MOEPOOL_RETURN_IF_ERROR(
      ParallelStatus(static_cast<int64_t>(all.size()), /*threads=*/0, [&](int64_t i) -> absl::Status {
        thread_local std::vector<std::byte> buffer(kChunkBytes);
        const size_t index = by_size[static_cast<size_t>(i)];
        MOEPOOL_ASSIGN_OR_RETURN(digests[index], TensorDigest(all[index], buffer, read));
        return absl::OkStatus();
      }));
  Canonical out;
  out.Add(kFormat);
  AddConfig(config, &out);
  for (const size_t index : tensors.by_name()) {
    const TensorInfo& tensor = all[index];
    out.Add(std::string_view(tensor.name));
    out.Add(Info(tensor.dtype).ggml_type);
    for (const int64_t dim : tensor.dims) out.Add(dim);
    out.Raw(digests[index]);
  }
  return out.Finish();
}

}  // namespace moepool
