// The experts that a worker holds, repacked for its device. Loading and releasing go on while dispatches run:
// a layer's table is immutable and replaced as a whole, and an executor keeps the one that it began with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/base/mutex.h"
#include "common/model/model_source.h"
#include "common/transport/pool_protocol.h"

namespace moepool {

// What a worker offers for experts: the limit that it was given, and no more than fits the GPU that it
// computes on; 0: no limit. By what fits, workers of unlike GPUs are not given even shares. A sixteenth of
// the GPU's memory stays free for rows in work.
inline uint64_t OfferedMemory(uint64_t memory_limit_bytes, const GpuFacts& gpu) {
  const uint64_t fits = gpu.memory_bytes - gpu.memory_bytes / 16;
  if (memory_limit_bytes == 0 || fits == 0) return std::max(memory_limit_bytes, fits);
  return std::min(memory_limit_bytes, fits);
}

// One layer. `experts` is indexed by expert number; null where the expert is not held.
struct LayerTable {
  std::vector<const ExpertWeights*> experts;
  std::vector<std::shared_ptr<const ExpertWeights>> owners;
};

// Thread-safe. Several may load at once: what is being read counts by the file's size until it is known what
// the device took.
class ExpertStore {
 public:
  // `source` and `backend` outlive the store. memory_limit_bytes 0: no limit.
  ExpertStore(const ModelSource* source, Backend* backend, uint64_t memory_limit_bytes);

  // Reads, repacks and publishes one expert; no-op where it is held. The file's pages are unmapped when it
  // returns. ResourceExhausted names the bytes needed, held and allowed; InvalidArgument where the model has
  // no such expert.
  absl::Status Load(int layer, int expert);
  // Loads those listed on `threads` threads (0: one a core) until all are held, one fails, or `stop` says so,
  // and lets the backend keep what was loaded. After `stop`: returns within one expert a thread, or what the
  // backend writes before it asks again.
  absl::Status LoadAll(std::span<const ExpertRef> experts, int threads, absl::FunctionRef<bool()> stop);
  // Drops those for which `keep` is false. A dispatch that is running keeps its table until it ends.
  void Retain(const std::function<bool(int layer, int expert)>& keep);
  bool Holds(int layer, int expert) const;
  std::vector<ExpertRef> Held() const;  // ascending

  std::shared_ptr<const LayerTable> Layer(int layer) const;  // layer within the model
  uint64_t bytes() const;
  uint64_t memory_limit_bytes() const { return memory_limit_bytes_; }
  int layers() const { return layers_; }
  int experts() const { return experts_; }

 private:
  absl::StatusOr<std::shared_ptr<const ExpertWeights>> Repack(int layer, int expert, uint64_t* bytes) const;
  absl::Status CheckRoom(int layer, int expert, uint64_t needed_bytes, uint64_t held_bytes) const;

  const ModelSource* const source_;
  Backend* const backend_;
  const uint64_t memory_limit_bytes_;
  const int layers_;
  const int experts_;
  const std::vector<uint64_t> file_bytes_;  // [layers * experts]
  mutable Mutex mutex_;
  std::vector<std::shared_ptr<const LayerTable>> tables_ GUARDED_BY(mutex_);  // [layers]
  std::vector<uint64_t> held_bytes_ GUARDED_BY(mutex_);                       // [layers * experts]
  uint64_t bytes_ GUARDED_BY(mutex_) = 0;
  uint64_t loading_bytes_ GUARDED_BY(mutex_) = 0;  // in the file, of those that are being loaded
};

}  // namespace moepool
