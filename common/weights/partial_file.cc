// See partial_file.h.
#include "common/weights/partial_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/base/private_directory.h"
#include "common/base/str.h"
#include "common/weights/segment_name.h"

namespace moepool {

uint64_t RandomNumber() {
  uint64_t number = 0;
  while (getrandom(&number, sizeof number, 0) < 0 && errno == EINTR) {
  }
  return number;
}

absl::StatusOr<PartialFile> PartialFile::Create(int directory, const std::string& segment_name,
                                                absl::FunctionRef<uint64_t()> number) {
  constexpr int kAttempts = 100;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::string name = PartialName(segment_name, number());
    UniqueFd fd(openat(directory, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd.valid() && errno == EEXIST) continue;
    if (!fd.valid()) return absl::ErrnoToStatus(errno, StrCat("cannot create '", name, "'"));
    PartialFile file(directory, segment_name, std::move(name), std::move(fd));
    // A file system without locks has none for RemoveAbandoned() either, which then removes nothing.
    while (flock(file.fd(), LOCK_EX) != 0 && errno == EINTR) {
    }
    struct stat made;
    if (fstat(file.fd(), &made) != 0)
      return absl::ErrnoToStatus(errno, StrCat("cannot stat '", file.name(), "'"));
    if (made.st_nlink > 0) return file;  // else it was taken for an abandoned one before it was locked
  }
  return absl::AlreadyExistsError(
      StrCat("cannot create a partial file of '", segment_name, "': ", kAttempts, " names were taken"));
}

PartialFile::~PartialFile() {
  if (fd_.valid()) unlinkat(directory_, name_.c_str(), 0);
}

absl::StatusOr<UniqueFd> PartialFile::Commit() && {
  if (renameat(directory_, name_.c_str(), directory_, segment_name_.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, StrCat("cannot rename '", name_, "' to '", segment_name_, "'"));
  }
  while (flock(fd_.get(), LOCK_SH) != 0 && errno == EINTR) {  // in use as long as it is open
  }
  return std::move(fd_);
}

void RemoveAbandoned(int directory, const std::string& name) {
  const absl::StatusOr<UniqueFd> fd = OpenPrivateFile(directory, name);
  if (fd.ok() && flock(fd->get(), LOCK_EX | LOCK_NB) == 0) unlinkat(directory, name.c_str(), 0);
}

}  // namespace moepool
