// A GGUF file as the operating system sees it: opened, measured, read by offset.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/digest.h"

namespace moepool {

// Owns a descriptor, open for reading on a regular file. Thread-safe.
class InputFile {
 public:
  // NotFound, PermissionDenied; FailedPrecondition where the path is not a regular file, DataLoss where it is
  // empty.
  static absl::StatusOr<InputFile> Open(const std::string& path);
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;
  ~InputFile();

  int fd() const { return fd_; }
  const FileIdentity& identity() const { return identity_; }  // when it was opened
  // DataLoss where the file ends first, or cannot be read.
  absl::Status ReadAt(uint64_t offset, uint64_t bytes, char* out) const;
  // DataLoss where the file has another size or time of modification than when it was opened.
  absl::Status CheckUnchanged() const;

 private:
  InputFile(int fd, FileIdentity identity) : fd_(fd), identity_(std::move(identity)) {}

  int fd_;
  FileIdentity identity_;
};

}  // namespace moepool
