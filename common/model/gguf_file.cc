// See gguf_file.h.
#include "common/model/gguf_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "common/base/str.h"

namespace moepool {
namespace {

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

FileIdentity IdentityOf(const struct stat& info, std::string path) {
  return {std::move(path),
          static_cast<uint64_t>(info.st_dev),
          static_cast<uint64_t>(info.st_ino),
          static_cast<uint64_t>(info.st_size),
          Nanoseconds(info.st_mtim),
          Nanoseconds(info.st_ctim)};
}

}  // namespace

absl::StatusOr<InputFile> InputFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return absl::ErrnoToStatus(errno, StrCat("cannot open '", path, "'"));
  InputFile file(fd, {});
  struct stat info;
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, StrCat("cannot stat '", path, "'"));
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(StrCat("'", path, "' is ",
                                                S_ISDIR(info.st_mode) ? "a directory" : "a device or a pipe",
                                                ", expected a file"));
  }
  if (info.st_size == 0) return absl::DataLossError(StrCat("'", path, "' is empty"));
  const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr), std::free);
  file.identity_ = IdentityOf(info, real != nullptr ? real.get() : path);
  return file;
}

InputFile::InputFile(InputFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), identity_(std::move(other.identity_)) {}

InputFile::~InputFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status InputFile::ReadAt(uint64_t offset, uint64_t bytes, char* out) const {
  uint64_t done = 0;
  while (done < bytes) {
    const ssize_t n = pread(fd_, out + done, bytes - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return absl::DataLossError(StrCat("'", identity_.path, "': cannot read at offset ", offset + done, ": ",
                                        std::strerror(errno)));
    }
    if (n == 0) {
      return absl::DataLossError(StrCat("'", identity_.path, "' ends at ", offset + done, " and had ",
                                        identity_.bytes, " bytes when it was opened"));
    }
    done += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status InputFile::CheckUnchanged() const {
  struct stat info;
  if (fstat(fd_, &info) != 0) return absl::ErrnoToStatus(errno, StrCat("cannot stat '", identity_.path, "'"));
  const FileIdentity now = IdentityOf(info, identity_.path);
  if (now.bytes != identity_.bytes) {
    return absl::DataLossError(StrCat("'", identity_.path, "' has ", now.bytes, " bytes and had ",
                                      identity_.bytes, " when it was opened"));
  }
  if (now.modified_ns != identity_.modified_ns) {
    return absl::DataLossError(StrCat("'", identity_.path, "' was written to: modified at ", now.modified_ns,
                                      " ns, and at ", identity_.modified_ns, " ns when it was opened"));
  }
  return absl::OkStatus();
}

}  // namespace moepool
