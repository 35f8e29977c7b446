// Packed weights of one model on disk, in a directory that is its user's alone (private_directory.h).
// Matrices are found by name; the model's digest, the layout and the writer's names make the name of a file,
// so that two processes that write the same write the same file. Other files in the directory are left alone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/base/private_directory.h"
#include "common/weights/weight_segment.h"

namespace moepool {

struct WeightCacheOptions {
  std::string directory;
  uint64_t limit_bytes = uint64_t{64} << 30;  // of all models in the directory
  double free_fraction = 0.05;                // of the file system, which is left to others
};

// Thread-safe.
class WeightCache {
 public:
  struct Found {
    std::shared_ptr<WeightSegment> segment;
    SegmentEntry entry;
  };

  // Makes the directory and reads the index of each of the model's files; those that are damaged are removed,
  // with a line in the log. Fails where the directory cannot be made or is not private.
  static absl::StatusOr<std::unique_ptr<WeightCache>> Open(const WeightCacheOptions& options,
                                                           const SegmentKind& kind);

  // An entry of that name and size. The file counts as used from then on.
  std::optional<Found> Find(const std::string& key, uint64_t bytes);
  // Forgets a file that Read() or Map() refused, and removes it where that was for damage (DataLoss).
  void Discard(const WeightSegment& segment, const absl::Status& cause);
  // Closes the files, which other processes may then remove; what is mapped stays. The next Find() reads the
  // directory again.
  void Close();
  // Writes a frozen chunk, and removes what was used least recently where the limit or the disk ask for it.
  // ResourceExhausted, with the numbers, where removing all that no process uses would not be enough; nothing
  // is removed then.
  absl::StatusOr<UniqueFd> Write(const WeightChunk& chunk, std::span<const WeightEntry> entries,
                                 absl::FunctionRef<bool()> stop);

 private:
  WeightCache(WeightCacheOptions options, const SegmentKind& kind, UniqueFd directory);
  void ReadIndex() REQUIRES(mutex_);
  void AddSegment(const std::string& name) REQUIRES(mutex_);
  absl::Status MakeRoom(uint64_t bytes);

  const WeightCacheOptions options_;
  const SegmentKind kind_;
  const UniqueFd directory_;
  const std::string prefix_;  // of the model's files
  Mutex mutex_;
  bool open_ GUARDED_BY(mutex_) = false;  // the index is read
  std::map<std::string, Found> entries_ GUARDED_BY(mutex_);
  std::set<std::string> in_use_ GUARDED_BY(mutex_);  // files
};

}  // namespace moepool
