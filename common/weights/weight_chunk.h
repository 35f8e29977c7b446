// Memory for many matrices: one mapping advised to huge pages and filled from the front, so that small
// matrices lie on huge pages too and none wastes the rest of its last page. A chunk is also the unit in which
// weights are kept on disk (weight_segment.h): the file holds an image of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"

namespace moepool {

// A part of a chunk that has a name and is filled.
struct WeightEntry {
  std::string key;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

class WeightChunk;

// What becomes of a part of a chunk that is released while the chunk may still be written to a file.
enum class Released : uint8_t {
  kGone,  // its bytes are given back
  kStay,  // they stay, and those with a name are written, until Thaw(): for who copies them elsewhere
};

// A part of a chunk, released when it goes. Its memory is zero at first.
class WeightPlace {
 public:
  WeightPlace(std::shared_ptr<WeightChunk> chunk, uint64_t offset, uint64_t bytes)
      : chunk_(std::move(chunk)), offset_(offset), bytes_(bytes) {}
  ~WeightPlace();
  WeightPlace(const WeightPlace&) = delete;
  WeightPlace& operator=(const WeightPlace&) = delete;

  std::byte* data() const;
  uint64_t bytes() const { return bytes_; }
  // Says that it is filled, and will not be written to again. `key` empty: it has no name. Once.
  void Fill(std::string key);

 private:
  const std::shared_ptr<WeightChunk> chunk_;
  const uint64_t offset_;
  const uint64_t bytes_;
  bool filled_ = false;
};

// Thread-safe.
class WeightChunk : public std::enable_shared_from_this<WeightChunk> {
 public:
  static constexpr uint64_t kAlignment = 64;

  // `capacity` bytes of address space, of which memory is taken as it is filled. ResourceExhausted names
  // them.
  static absl::StatusOr<std::shared_ptr<WeightChunk>> Create(uint64_t capacity,
                                                             Released released = Released::kGone);
  ~WeightChunk();
  WeightChunk(const WeightChunk&) = delete;
  WeightChunk& operator=(const WeightChunk&) = delete;

  std::byte* data() const { return data_; }
  // Null where there is no room left.
  std::unique_ptr<WeightPlace> Reserve(uint64_t bytes);

  // Closes the chunk: nothing is reserved any more, and what is released keeps its bytes until Thaw().
  // Returns the entries that it holds, once, or nothing where some place is not filled yet; the chunk is then
  // as it was.
  std::optional<std::vector<WeightEntry>> Freeze();
  void Thaw();
  uint64_t used_bytes() const;

  // Maps [0, used_bytes()) of `fd`, which has the bytes of the frozen chunk, in its place: addresses stay,
  // and the memory is the file's. Readers do not notice, nor where it fails.
  absl::Status Remap(int fd);

 private:
  friend class WeightPlace;
  WeightChunk(std::byte* data, uint64_t capacity, Released released)
      : data_(data), capacity_(capacity), stay_(released == Released::kStay) {}
  void Fill(uint64_t offset, uint64_t bytes, std::string key);
  void Release(uint64_t offset, uint64_t bytes, bool filled);
  void GiveBack(uint64_t offset, uint64_t bytes) REQUIRES(mutex_);

  std::byte* const data_;
  const uint64_t capacity_;
  const bool stay_;
  mutable Mutex mutex_;
  uint64_t used_ GUARDED_BY(mutex_) = 0;
  int unfilled_ GUARDED_BY(mutex_) = 0;
  bool closed_ GUARDED_BY(mutex_) = false;
  bool frozen_ GUARDED_BY(mutex_) = false;
  std::vector<WeightEntry> entries_ GUARDED_BY(mutex_);
  std::vector<WeightEntry> released_ GUARDED_BY(mutex_);  // to be given back by Thaw(); without names
  bool thawed_ GUARDED_BY(mutex_) = false;
};

// Hands out places, in chunks as needed. Thread-safe.
class WeightArena {
 public:
  explicit WeightArena(Released released = Released::kGone) : released_(released) {}
  absl::StatusOr<std::unique_ptr<WeightPlace>> Reserve(uint64_t bytes);
  // The chunks handed out since the last call; later places are in others.
  std::vector<std::shared_ptr<WeightChunk>> Take();

 private:
  const Released released_;
  Mutex mutex_;
  std::vector<std::shared_ptr<WeightChunk>> chunks_ GUARDED_BY(mutex_);  // the last one has room
};

}  // namespace moepool
