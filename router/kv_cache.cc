// See kv_cache.h.
#include "router/kv_cache.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

constexpr uint64_t kMaxBytes = std::numeric_limits<uint64_t>::max();

uint64_t SaturatingProduct(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? kMaxBytes : product;
}

// Bytes of K, or of V, of one block of one layer.
uint64_t HalfBlockBytes(const ModelConfig& config, KvType type) {
  return SaturatingProduct(config.kv_heads, KvHeadBlockBytes(type, config.head_dim));
}

}  // namespace

uint64_t KvCache::BlockBytes(const ModelConfig& config, KvType type) {
  return SaturatingProduct(HalfBlockBytes(config, type), 2 * static_cast<uint64_t>(config.layers));
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(Backend* backend, const ModelConfig& config,
                                                         KvType type, int blocks) {
  if (blocks < 1 || config.layers < 1 || config.kv_heads < 1 || config.head_dim < 1) {
    return absl::InvalidArgumentError(absl::StrCat("a KV cache of ", blocks, " blocks, ", config.layers,
                                                   " layers, ", config.kv_heads, " heads of ",
                                                   config.head_dim));
  }
  const uint64_t total_bytes = SaturatingProduct(BlockBytes(config, type), blocks);
  const auto exhausted = [&](absl::string_view cause) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a KV cache of ", blocks, " blocks needs ", total_bytes, " bytes: ", cause));
  };
  if (total_bytes > std::numeric_limits<size_t>::max() / 2) return exhausted("more than can be addressed");

  auto cache = std::unique_ptr<KvCache>(new KvCache());
  cache->blocks_ = blocks;
  const size_t half_layer_bytes = HalfBlockBytes(config, type) * blocks;
  for (int layer = 0; layer < config.layers; ++layer) {
    KvLayer views{.type = type};
    for (std::byte** half : {&views.k, &views.v}) {
      absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend->Allocate(half_layer_bytes);
      if (!buffer.ok()) return exhausted(buffer.status().message());
      *half = (*buffer)->data();
      cache->buffers_.push_back(*std::move(buffer));
    }
    cache->layers_.push_back(views);
  }
  for (int32_t block = blocks; block-- > 0;) cache->free_.push_back(block);
  return cache;
}

absl::Status KvCache::Reserve(SequenceId sequence, int tokens) {
  if (tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("sequence ", sequence.value(), " reserves ", tokens, " positions"));
  }
  const size_t needed = (static_cast<size_t>(tokens) + kKvBlockTokens - 1) / kKvBlockTokens;
  if (needed > free_.size()) {
    return absl::ResourceExhaustedError(absl::StrCat("sequence ", sequence.value(), " needs ", needed,
                                                     " KV blocks, ", free_.size(), " of ", blocks_,
                                                     " are free"));
  }
  const auto [entry, inserted] = held_.try_emplace(sequence);
  if (!inserted) {
    return absl::FailedPreconditionError(absl::StrCat("sequence ", sequence.value(), " holds ",
                                                      entry->second.size(),
                                                      " KV blocks already and reserves ", needed, " more"));
  }
  entry->second.assign(free_.rbegin(), free_.rbegin() + needed);
  free_.resize(free_.size() - needed);
  return absl::OkStatus();
}

void KvCache::Free(SequenceId sequence) {
  const auto entry = held_.find(sequence);
  if (entry == held_.end()) return;
  free_.insert(free_.end(), entry->second.rbegin(), entry->second.rend());
  held_.erase(entry);
}

std::span<const int32_t> KvCache::BlockTable(SequenceId sequence) const {
  const auto entry = held_.find(sequence);
  if (entry == held_.end()) return {};
  return entry->second;
}

}  // namespace moepool
