#include "common/transport/unix_address.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/unique_fd.h"

namespace moepool {
namespace {

constexpr char kPrefix[] = "moepool-";
constexpr char kSuffix[] = ".sock";  // of a file's name, and of no abstract one
constexpr int kWaiting = 64;         // connections until the router takes them

bool IsSocketFile(const std::string& name) {
  return absl::StartsWith(name, kPrefix) && absl::EndsWith(name, kSuffix);
}

absl::Status Failed(const std::string& what) {
  return absl::UnavailableError(StrCat(what, ": ", std::strerror(errno)));
}

// Nobody listens at a socket that refuses connections, unless he has just bound it: the lock is held from
// before that until it listens.
void RemoveDeadSockets(const std::string& directory) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (!IsSocketFile(name)) continue;
    const absl::StatusOr<UnixAddress> address = ToUnixAddress(directory, name);
    const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!address.ok() || !probe.valid()) continue;
    if (connect(probe.get(), address->get(), address->bytes) != 0 && errno == ECONNREFUSED) {
      unlink(address->text.c_str());
    }
  }
}

}  // namespace

absl::StatusOr<UnixAddress> ToUnixAddress(const std::string& directory, const std::string& name) {
  UnixAddress to;
  to.address.sun_family = AF_UNIX;
  if (name.empty()) return absl::InvalidArgumentError("shared memory: the socket has no name");
  if (directory.empty() && IsSocketFile(name)) {
    return absl::InvalidArgumentError(
        StrCat("shared memory: the router's socket ", name, " is a file; --shm-dir names its directory"));
  }
  if (!directory.empty() && (!IsSocketFile(name) || absl::StrContains(name, "/"))) {
    return absl::InvalidArgumentError(
        StrCat("shared memory: socket '", absl::CEscape(name), "' is no file of ", directory));
  }
  const std::string path =
      directory.empty() ? StrCat(std::string(1, '\0'), name) : StrCat(directory, "/", name);
  if (path.size() + 1 > sizeof(to.address.sun_path)) {
    return absl::InvalidArgumentError(StrCat("shared memory: a socket's address has ",
                                             sizeof(to.address.sun_path) - 1, " bytes at most, ", path.size(),
                                             " are asked for"));
  }
  std::memcpy(to.address.sun_path, path.data(), path.size());
  to.bytes =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (directory.empty() ? 0 : 1));
  to.text = directory.empty() ? StrCat("@", name) : path;
  return to;
}

absl::StatusOr<std::string> NewSocketName(const std::string& directory) {
  char random[16];
  if (getrandom(random, sizeof(random), 0) != sizeof(random)) return Failed("getrandom");
  return StrCat(kPrefix, absl::BytesToHexString(absl::string_view(random, sizeof(random))),
                directory.empty() ? "" : kSuffix);
}

absl::Status ListenAt(int socket, const std::string& directory, const UnixAddress& address) {
  UniqueFd lock;
  if (!directory.empty()) {
    lock = UniqueFd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!lock.valid() || flock(lock.get(), LOCK_EX) != 0) return Failed(StrCat("directory ", directory));
    RemoveDeadSockets(directory);
  }
  if (bind(socket, address.get(), address.bytes) != 0) return Failed(StrCat("UNIX socket ", address.text));
  // Before it listens, nobody can have connected.
  if ((!directory.empty() && chmod(address.text.c_str(), S_IRUSR | S_IWUSR) != 0) ||
      listen(socket, kWaiting) != 0) {
    const absl::Status status = Failed(StrCat("UNIX socket ", address.text));
    if (!directory.empty()) unlink(address.text.c_str());
    return status;
  }
  return absl::OkStatus();
}

}  // namespace moepool
