// The paged KV cache: device memory for all layers in blocks of 16 positions, and each sequence's table of
// blocks. Tables share the blocks of a common prefix, and what a sequence leaves stays for the next one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/base/strong_id.h"
#include "common/model/config.h"
#include "router/block_pool.h"

namespace moepool {

struct KvCacheOptions {
  KvType type = KvType::kF16;
  int blocks = 1;
  bool prefix_cache = true;
};

// What of a sequence's ids lies in the cache already.
struct CachedPrefix {
  int tokens = 0;       // a multiple of 16
  int blocks = 0;       // that a table for them holds; fewer than tokens / 16 where a window has left some
  int idle_blocks = 0;  // of these, the ones that nobody else holds: free_blocks() counts them until Open()
};

constexpr int KvBlocksFor(int64_t tokens) {
  return static_cast<int>((tokens + kKvBlockTokens - 1) / kKvBlockTokens);
}

// Leading blocks that no row at position `computed` or later sees. window 0: none.
constexpr int KvBlocksLeftBehind(int computed, int window) {
  return window > 0 && computed >= window ? (computed - window + 1) / kKvBlockTokens : 0;
}

// Most blocks that a row and the window before it reach into.
constexpr int KvBlocksOfWindow(int window) { return (window + kKvBlockTokens - 2) / kKvBlockTokens + 1; }

// A sequence opens a table, grows it before each step by what the step writes, commits after the step what it
// has computed, and releases the table in the end or when it is preempted. Then:
//   - a step writes at positions from the last commit on alone. Those lie in blocks that Grow() has given to
//     this sequence and that are not published, because only Commit() publishes, and only full blocks: no
//     step can write into a block that anyone else reads;
//   - nothing that was computed in a step that failed is published, because it is not committed;
//   - after Commit() every full block of the table is a published one. Where two sequences have computed the
//     same prefix, the second takes the first one's blocks and frees its own: the same ids at the same
//     positions have the same keys and values to the last bit, whatever else was in the batch.
//
// What else keys and values depend on: the model, the KV type and the window are the cache's own; the rope
// set (and whatever a later adapter adds) is the sequence's, and is the root of its chain.
//
// Owned by the engine's thread.
class KvCache {
 public:
  // ResourceExhausted names the bytes. InvalidArgument where a size of `config` or `blocks` is below 1.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(Backend* backend, const ModelConfig& config,
                                                         const KvCacheOptions& options);
  // Bytes of one block over all layers; 2^64 - 1 where they are more.
  static uint64_t BlockBytes(const ModelConfig& config, KvType type);

  // The longest cached prefix of `ids`, in whole blocks.
  CachedPrefix FindPrefix(RopeSet rope, std::span<const int32_t> ids) const;
  // Gives the sequence, which has no table, one that holds that prefix. The sequence must compute at least
  // one position after `ids` for its logits. Returns what FindPrefix() has found.
  CachedPrefix Open(SequenceId sequence, RopeSet rope, std::span<const int32_t> ids);
  // Blocks for positions up to `tokens`. ResourceExhausted with both numbers, and nothing is taken.
  absl::Status Grow(SequenceId sequence, int tokens);
  // `ids`: all that is computed by now, which begins with what was committed before. Releases what the window
  // has left behind.
  void Commit(SequenceId sequence, std::span<const int32_t> ids);
  // No-op where the sequence has no table.
  void Release(SequenceId sequence);

  // By position / 16; -1 where the window has left a block behind. Stays valid until the next call for this
  // sequence. Empty where it has no table.
  std::span<const int32_t> BlockTable(SequenceId sequence) const;
  int HeldBlocks(SequenceId sequence) const;
  // own[i]: blocks held by sequences[i] and by none before it, which is what releasing it frees once all
  // after it are released.
  void CountOwnBlocks(std::span<const SequenceId> sequences, std::span<int> own);

  KvLayer Layer(int layer) const { return layers_[static_cast<size_t>(layer)]; }
  int blocks() const { return pool_.blocks(); }
  int free_blocks() const { return pool_.available(); }  // cached ones that nobody holds among them
  int cached_blocks() const { return pool_.idle(); }
  uint64_t evicted_blocks() const { return pool_.evictions(); }
  bool prefix_cache() const { return prefix_cache_; }

  // Recounts who holds what. For tests: O(blocks).
  void CheckInvariants() const;

 private:
  struct Table {
    std::vector<int32_t> blocks;
    int left_behind = 0;  // leading entries that are -1
    int published = 0;    // leading entries that are, or were, published
    ChainEnd end;         // of the published ones
  };

  KvCache(const KvCacheOptions& options, int window)
      : pool_(options.blocks), window_(window), prefix_cache_(options.prefix_cache) {}
  std::vector<int32_t> FindChain(RopeSet rope, std::span<const int32_t> ids) const;
  CachedPrefix Describe(std::span<const int32_t> chain) const;

  BlockPool pool_;
  const int window_;
  const bool prefix_cache_;
  std::vector<std::unique_ptr<Buffer>> buffers_;  // K and V of layer 0, of layer 1, ...
  std::vector<KvLayer> layers_;
  absl::flat_hash_map<SequenceId, Table> tables_;
  std::vector<uint64_t> counted_;  // by block: the last count of CountOwnBlocks() that met it
  uint64_t count_ = 0;
};

}  // namespace moepool
