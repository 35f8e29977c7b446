// See kv_cache.h.
#include "router/kv_cache.h"

#include <algorithm>
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
                                                         const KvCacheOptions& options) {
  const int blocks = options.blocks;
  if (blocks < 1 || config.layers < 1 || config.kv_heads < 1 || config.head_dim < 1) {
    return absl::InvalidArgumentError(absl::StrCat("a KV cache of ", blocks, " blocks, ", config.layers,
                                                   " layers, ", config.kv_heads, " heads of ",
                                                   config.head_dim));
  }
  if (options.type == KvType::kQ8_0 && config.head_dim % 32 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a KV cache of type q8_0 needs heads of a multiple of 32 dimensions, the model's have ",
                     config.head_dim));
  }
  const uint64_t total_bytes = SaturatingProduct(BlockBytes(config, options.type), blocks);
  const auto exhausted = [&](absl::string_view cause) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a KV cache of ", blocks, " blocks needs ", total_bytes, " bytes: ", cause));
  };
  if (total_bytes > std::numeric_limits<size_t>::max() / 2) return exhausted("more than can be addressed");

  // Memory first: the book-keeping of blocks that can't be had may be large itself.
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<KvLayer> layers;
  const size_t half_layer_bytes = HalfBlockBytes(config, options.type) * blocks;
  for (int layer = 0; layer < config.layers; ++layer) {
    KvLayer views{.type = options.type};
    for (std::byte** half : {&views.k, &views.v}) {
      absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend->Allocate(half_layer_bytes);
      if (!buffer.ok()) return exhausted(buffer.status().message());
      *half = (*buffer)->data();
      buffers.push_back(*std::move(buffer));
    }
    layers.push_back(views);
  }
  auto cache = std::unique_ptr<KvCache>(new KvCache(options, config.sliding_window));
  cache->buffers_ = std::move(buffers);
  cache->layers_ = std::move(layers);
  cache->counted_.resize(static_cast<size_t>(blocks), 0);
  return cache;
}

std::vector<int32_t> KvCache::FindChain(RopeSet rope, std::span<const int32_t> ids) const {
  std::vector<int32_t> chain;
  if (!prefix_cache_) return chain;
  PrefixNode node = BlockPool::Root(static_cast<int>(rope)).node;
  for (size_t begin = 0; begin + kKvBlockTokens <= ids.size(); begin += kKvBlockTokens) {
    const int32_t block = pool_.Find(node, ids.subspan(begin, kKvBlockTokens));
    if (block < 0) break;
    chain.push_back(block);
    node = pool_.EndAt(block).node;
  }
  return chain;
}

CachedPrefix KvCache::Describe(std::span<const int32_t> chain) const {
  CachedPrefix prefix;
  prefix.tokens = static_cast<int>(chain.size()) * kKvBlockTokens;
  const int left_behind = KvBlocksLeftBehind(prefix.tokens, window_);
  prefix.blocks = static_cast<int>(chain.size()) - left_behind;
  for (const int32_t block : chain.subspan(static_cast<size_t>(left_behind))) {
    prefix.idle_blocks += pool_.idle(block) ? 1 : 0;
  }
  return prefix;
}

CachedPrefix KvCache::FindPrefix(RopeSet rope, std::span<const int32_t> ids) const {
  return Describe(FindChain(rope, ids));
}

CachedPrefix KvCache::Open(SequenceId sequence, RopeSet rope, std::span<const int32_t> ids) {
  std::vector<int32_t> chain = FindChain(rope, ids);
  const CachedPrefix prefix = Describe(chain);
  Table table;
  table.end = chain.empty() ? BlockPool::Root(static_cast<int>(rope)) : pool_.EndAt(chain.back());
  table.published = static_cast<int>(chain.size());
  table.left_behind = KvBlocksLeftBehind(prefix.tokens, window_);
  for (int i = 0; i < table.published; ++i) {
    int32_t& block = chain[static_cast<size_t>(i)];
    if (i >= table.left_behind) {
      pool_.Hold(block);
    } else {
      pool_.Touch(block);
      block = -1;
    }
  }
  table.blocks = std::move(chain);
  MOEPOOL_CHECK(tables_.try_emplace(sequence, std::move(table)).second);
  return prefix;
}

absl::Status KvCache::Grow(SequenceId sequence, int tokens) {
  const auto entry = tables_.find(sequence);
  MOEPOOL_CHECK(entry != tables_.end());
  std::vector<int32_t>& blocks = entry->second.blocks;
  const int needed = KvBlocksFor(tokens) - static_cast<int>(blocks.size());
  if (needed > pool_.available()) {
    return absl::ResourceExhaustedError(absl::StrCat("sequence ", sequence.value(), " needs ", needed,
                                                     " KV blocks, ", pool_.available(), " of ",
                                                     pool_.blocks(), " are free"));
  }
  for (int i = 0; i < needed; ++i) blocks.push_back(pool_.Take());
  return absl::OkStatus();
}

void KvCache::Commit(SequenceId sequence, std::span<const int32_t> ids) {
  const auto entry = tables_.find(sequence);
  MOEPOOL_CHECK(entry != tables_.end());
  Table& table = entry->second;
  MOEPOOL_CHECK(ids.size() <= table.blocks.size() * kKvBlockTokens);
  const int full = prefix_cache_ ? static_cast<int>(ids.size()) / kKvBlockTokens : 0;
  for (; table.published < full; ++table.published) {
    const auto its_ids = ids.subspan(static_cast<size_t>(table.published) * kKvBlockTokens, kKvBlockTokens);
    int32_t& block = table.blocks[static_cast<size_t>(table.published)];
    if (const int32_t found = pool_.Find(table.end.node, its_ids); found >= 0) {
      pool_.Hold(found);
      pool_.Release(block, false);
      block = found;
    } else {
      pool_.Publish(block, table.end, its_ids);
    }
    table.end = pool_.EndAt(block);
  }
  const int left_behind = KvBlocksLeftBehind(static_cast<int>(ids.size()), window_);
  for (; table.left_behind < left_behind; ++table.left_behind) {
    int32_t& block = table.blocks[static_cast<size_t>(table.left_behind)];
    pool_.Release(block, true);
    block = -1;
  }
}

void KvCache::Release(SequenceId sequence) {
  const auto entry = tables_.find(sequence);
  if (entry == tables_.end()) return;
  const Table& table = entry->second;
  // A chain whose beginning a window has left behind and others have taken can't be found again.
  const bool keep = table.published > table.left_behind &&
                    pool_.Reachable(table.blocks[static_cast<size_t>(table.left_behind)]);
  for (size_t i = table.blocks.size(); i-- > static_cast<size_t>(table.left_behind);) {
    pool_.Release(table.blocks[i], keep);
  }
  tables_.erase(entry);
}

std::span<const int32_t> KvCache::BlockTable(SequenceId sequence) const {
  const auto entry = tables_.find(sequence);
  if (entry == tables_.end()) return {};
  return entry->second.blocks;
}

int KvCache::HeldBlocks(SequenceId sequence) const {
  const auto entry = tables_.find(sequence);
  if (entry == tables_.end()) return 0;
  return static_cast<int>(entry->second.blocks.size()) - entry->second.left_behind;
}

void KvCache::CountOwnBlocks(std::span<const SequenceId> sequences, std::span<int> own) {
  MOEPOOL_CHECK(own.size() == sequences.size());
  ++count_;
  for (size_t i = 0; i < sequences.size(); ++i) {
    own[i] = 0;
    for (const int32_t block : BlockTable(sequences[i])) {
      if (block < 0 || counted_[static_cast<size_t>(block)] == count_) continue;
      counted_[static_cast<size_t>(block)] = count_;
      ++own[i];
    }
  }
}

void KvCache::CheckInvariants() const {
  pool_.CheckInvariants();
  std::vector<int> holders(static_cast<size_t>(pool_.blocks()), 0);
  for (const auto& [sequence, table] : tables_) {
    MOEPOOL_CHECK(table.left_behind <= static_cast<int>(table.blocks.size()));
    MOEPOOL_CHECK(table.published <= static_cast<int>(table.blocks.size()));
    for (int i = 0; i < static_cast<int>(table.blocks.size()); ++i) {
      const int32_t block = table.blocks[static_cast<size_t>(i)];
      MOEPOOL_CHECK((block < 0) == (i < table.left_behind));
      if (block >= 0) ++holders[static_cast<size_t>(block)];
    }
  }
  for (int32_t block = 0; block < pool_.blocks(); ++block) {
    MOEPOOL_CHECK(pool_.holders(block) == holders[static_cast<size_t>(block)]);
  }
}

}  // namespace moepool
