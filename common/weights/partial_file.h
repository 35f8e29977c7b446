// A segment while it is written: under a name of its own, which it changes for the segment's when it is
// whole. Locked, so that a partial file whose writer lives is told from one that is left behind.
#pragma once

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/unique_fd.h"

namespace moepool {

uint64_t RandomNumber();

class PartialFile {
 public:
  // A new, empty file that only its user may read. Other writers of the same segment, which may be in another
  // container with the same process ids, have files of their own: a name that exists is left alone, and the
  // next number is asked for. The system's error where none can be made.
  static absl::StatusOr<PartialFile> Create(int directory, const std::string& segment_name,
                                            absl::FunctionRef<uint64_t()> number = RandomNumber);
  PartialFile(PartialFile&& other) = default;
  PartialFile& operator=(PartialFile&&) = delete;
  ~PartialFile();  // removes it, unless it has been committed

  int fd() const { return fd_.get(); }
  const std::string& name() const { return name_; }
  // Gives it the segment's name, in the place of what has that name, and returns it, locked for reading.
  absl::StatusOr<UniqueFd> Commit() &&;

 private:
  PartialFile(int directory, const std::string& segment_name, std::string name, UniqueFd fd)
      : directory_(directory), segment_name_(segment_name), name_(std::move(name)), fd_(std::move(fd)) {}

  int directory_;  // the caller's
  std::string segment_name_;
  std::string name_;
  UniqueFd fd_;  // invalid: committed, or moved from
};

// Removes a partial file that no living writer has locked.
void RemoveAbandoned(int directory, const std::string& name);

}  // namespace moepool
