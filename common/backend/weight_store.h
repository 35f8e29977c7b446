// Where matrices come from: packed from the model's own bytes, or found as they were packed at an earlier
// start (common/weights). Either way into memory of many matrices together, on huge pages, from which a GPU's
// backend copies them.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/base/mutex.h"
#include "common/kernels/packed.h"
#include "common/weights/weight_cache.h"
#include "common/weights/weight_chunk.h"

namespace moepool {

// For who copies matrices elsewhere and lets go of them: what is to be kept stays in memory until it is
// written, which begins in the middle of a batch.
struct CopiedWeights {
  uint64_t write_bytes = uint64_t{512} << 20;  // from which on they are written
  // Of what is not written yet. What is packed beyond it is not kept: the next start packs that again, and
  // keeps more of it.
  uint64_t most_bytes = uint64_t{2} << 30;
};

// Thread-safe: Load() may be called by several threads at once.
class WeightStore {
 public:
  explicit WeightStore(const WeightOptions& options, std::optional<CopiedWeights> copied = std::nullopt)
      : options_(options), copied_(copied) {}
  ~WeightStore();  // abandons what is being written

  // As Backend::Load and Backend::KeepLoaded.
  absl::StatusOr<PackedMatrix> Load(const MatrixView& view, const WeightKey& key);
  void KeepLoaded(absl::FunctionRef<bool()> stop);
  // Waits until what KeepLoaded() left to the background has been written or given up.
  void AwaitKept();

 private:
  using Chunk = std::shared_ptr<WeightChunk>;
  // Of one model.
  struct Kept {
    explicit Kept(Released released) : packed(released) {}
    std::unique_ptr<WeightCache> cache;
    WeightArena packed;            // to be written
    std::vector<Chunk> unwritten;  // taken while some place was not filled yet
  };
  struct Task {
    Kept* kept;
    Chunk chunk;
    std::vector<WeightEntry> entries;
  };
  // Since the last KeepLoaded().
  struct Counts {
    uint64_t packed = 0;
    uint64_t packed_bytes = 0;
    uint64_t from_cache = 0;
    uint64_t from_cache_bytes = 0;
    uint64_t not_kept_bytes = 0;
  };

  // Null: nothing is kept. Fails where the source no longer is what its digest says.
  absl::StatusOr<Kept*> KeptOf(const ModelSource* source);
  absl::StatusOr<std::optional<PackedMatrix>> LoadKept(Kept* kept, const std::string& key, PackedMatrix m);
  // Whether bytes that are packed now may be kept, which then counts them as not written.
  bool MayKeep(uint64_t bytes);
  // Packs `view` to where m is placed, and names it where `name` is not empty. `source`, which may be null,
  // is to be the same after it.
  absl::StatusOr<PackedMatrix> PackTo(WeightArena* arena, const MatrixView& view, PackedMatrix m,
                                      const ModelSource* source, std::string name);
  std::vector<Task> TakeTasks();
  // Hands what has been packed to the writer.
  void BeginWriting();
  void Written(const std::vector<WeightEntry>& entries) REQUIRES(mutex_);
  void Map(absl::FunctionRef<bool()> stop);
  // False where `stop` or the store's end came first: the chunk is still frozen, and may be written later.
  bool Write(const Task& task, absl::FunctionRef<bool()> stop);
  void WriteLoop();

  const WeightOptions options_;
  const std::optional<CopiedWeights> copied_;
  WeightArena loose_;  // read from the cache, or nothing to keep
  Mutex mutex_;
  CondVar changed_;
  std::map<ModelDigest, std::unique_ptr<Kept>> kept_ GUARDED_BY(mutex_);
  bool keeping_ GUARDED_BY(mutex_) = true;  // false once disk or directory have refused a file
  Counts counts_ GUARDED_BY(mutex_);
  uint64_t unwritten_bytes_ GUARDED_BY(mutex_) = 0;  // counted where copied_ limits them
  uint64_t not_begun_bytes_ GUARDED_BY(mutex_) = 0;  // of them, packed since BeginWriting()
  std::atomic<bool> stopping_ = false;               // set under the mutex
  bool writing_ GUARDED_BY(mutex_) = false;
  std::deque<Task> tasks_ GUARDED_BY(mutex_);  // for KeepLoaded() itself where files are mapped
  std::thread writer_;                         // where they are not, from the first KeepLoaded() on
};

}  // namespace moepool
