// A file of packed weights: the image of a chunk, then an index. One file holds many matrices, since a dense
// model is hundreds of slices of a few tens of kilobytes; and only as many as a process packed in one go,
// since shares move and each matrix is found by its name, whichever file it is in.
//
//   image     bytes of the chunk from its start, padded to 4096: mapped at a multiple of a huge page, where
//             offsets in the file are congruent to addresses, so that huge pages of the page
//             cache are mapped whole
//   entries   {u64 offset, u64 bytes, u64 checksum, u64 key_bytes} and the key, one after the other
//   trailer   SegmentTrailer, at the end of the file
// Little-endian. Files are written under another name and renamed, so that a reader sees all of one or
// nothing; they are not synced: one that a crash has torn fails its checks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/base/private_directory.h"
#include "common/weights/weight_chunk.h"

namespace moepool {

// What all matrices of a file have in common.
struct SegmentKind {
  std::array<uint8_t, 32> model{};
  uint32_t layout = 0;
  bool operator==(const SegmentKind&) const = default;
};

struct SegmentEntry {
  std::string key;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t checksum = 0;
};

// Writes `chunk`, frozen, as `name` and returns it open for reading. ResourceExhausted where the disk is
// full, Cancelled once `stop` says so, InvalidArgument where the index would be larger than Open() takes, the
// system's error otherwise; no file is left then.
absl::StatusOr<UniqueFd> WriteSegment(int directory, const std::string& name, const SegmentKind& kind,
                                      const WeightChunk& chunk, std::span<const WeightEntry> entries,
                                      absl::FunctionRef<bool()> stop);

// An open file, which the cache does not remove while one of these or a mapping of one lives. Thread-safe.
class WeightSegment {
 public:
  // Checks trailer and index; reads no weights. DataLoss where they are damaged, FailedPrecondition where the
  // file is not private, of another kind or another version, the system's error where it cannot be read.
  static absl::StatusOr<std::shared_ptr<WeightSegment>> Open(int directory, const std::string& name,
                                                             const SegmentKind& kind);

  const std::string& name() const { return name_; }
  std::vector<SegmentEntry> TakeEntries() { return std::move(entries_); }  // of the index; once

  // Copies an entry's bytes. DataLoss where they fail their checksum or the file ends first; the system's
  // error where they cannot be read, which says nothing of the file.
  absl::Status Read(const SegmentEntry& entry, std::byte* to) const;
  // An entry's bytes in the page cache, mapped as long as the pointer lives. DataLoss where they fail their
  // checksum, the system's error where they cannot be mapped. As with every mapped file, memory whose file is
  // cut short raises SIGBUS when it is read.
  absl::StatusOr<std::shared_ptr<const std::byte>> Map(const SegmentEntry& entry);

 private:
  absl::Status Check(const SegmentEntry& entry, uint64_t checksum) const;
  WeightSegment(std::string name, UniqueFd fd, uint64_t image_bytes)
      : name_(std::move(name)), fd_(std::move(fd)), image_bytes_(image_bytes) {}

  const std::string name_;
  const UniqueFd fd_;
  const uint64_t image_bytes_;
  std::vector<SegmentEntry> entries_;
  Mutex mutex_;
  std::weak_ptr<const std::byte> image_ GUARDED_BY(mutex_);
};

}  // namespace moepool
