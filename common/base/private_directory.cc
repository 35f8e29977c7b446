// See private_directory.h.
#include "common/base/private_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/str_format.h"
#include "common/base/str.h"

namespace moepool {
namespace {

absl::Status CheckPrivate(int fd, mode_t type, const char* kind, const std::string& name) {
  struct stat info;
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, StrCat("cannot stat '", name, "'"));
  if ((info.st_mode & S_IFMT) != type) {
    return absl::FailedPreconditionError(StrCat("'", name, "' is not a ", kind));
  }
  if (info.st_uid != geteuid()) {
    return absl::FailedPreconditionError(
        StrCat("'", name, "' belongs to user ", info.st_uid, ", expected ", geteuid()));
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return absl::FailedPreconditionError(absl::StrFormat("'%s' has mode %04o: others may write to it", name,
                                                         static_cast<unsigned>(info.st_mode & 07777)));
  }
  return absl::OkStatus();
}

}  // namespace

std::string UserCachePath(std::string_view name) {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg != nullptr && xdg[0] == '/') return StrCat(xdg, "/moepool/", name);
  const char* home = std::getenv("HOME");
  if (home != nullptr && home[0] == '/') return StrCat(home, "/.cache/moepool/", name);
  return "";
}

absl::StatusOr<UniqueFd> OpenPrivateDirectory(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    mkdir(path.substr(0, slash).c_str(), 0700);
  }
  mkdir(path.c_str(), 0700);
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, StrCat("cannot open directory '", path, "'"));
  if (absl::Status status = CheckPrivate(fd.get(), S_IFDIR, "directory", path); !status.ok()) return status;
  return fd;
}

absl::StatusOr<UniqueFd> OpenPrivateFile(int directory, const std::string& name) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  UniqueFd fd(openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    if (errno == ELOOP) return absl::FailedPreconditionError(StrCat("'", name, "' is a link"));
    return absl::ErrnoToStatus(errno, StrCat("cannot open '", name, "'"));
  }
  if (absl::Status status = CheckPrivate(fd.get(), S_IFREG, "regular file", name); !status.ok())
    return status;
  return fd;
}

}  // namespace moepool
