// The paged KV cache: device memory for all layers in blocks of 16 positions, and who holds which block.
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

namespace moepool {

// Owned by the engine's thread.
class KvCache {
 public:
  // ResourceExhausted names the bytes. InvalidArgument where a size of `config` or `blocks` is below 1.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(Backend* backend, const ModelConfig& config,
                                                         KvType type, int blocks);
  // Bytes of one block over all layers; 2^64 - 1 where they are more.
  static uint64_t BlockBytes(const ModelConfig& config, KvType type);

  // Takes blocks for `tokens` positions, the last ones freed first. Nothing is taken on an error:
  // ResourceExhausted with both numbers; FailedPrecondition where the sequence holds blocks already (tables
  // do not grow, so that pointers to them last); InvalidArgument where tokens < 1.
  absl::Status Reserve(SequenceId sequence, int tokens);
  // No-op where the sequence holds none.
  void Free(SequenceId sequence);
  // By position / 16; stays valid until Free. Empty where the sequence holds none.
  std::span<const int32_t> BlockTable(SequenceId sequence) const;

  KvLayer Layer(int layer) const { return layers_[layer]; }
  int blocks() const { return blocks_; }
  int free_blocks() const { return static_cast<int>(free_.size()); }

 private:
  KvCache() = default;
  int blocks_ = 0;
  std::vector<std::unique_ptr<Buffer>> buffers_;  // K and V of layer 0, of layer 1, ...
  std::vector<KvLayer> layers_;
  std::vector<int32_t> free_;  // a stack; with held_, each block exactly once
  absl::flat_hash_map<SequenceId, std::vector<int32_t>> held_;
};

}  // namespace moepool
