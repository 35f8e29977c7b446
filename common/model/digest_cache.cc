// RememberedDigest (digest.h). One small file for each model file, named by a hash of its identity; it is
// written beside its name and renamed, so that a reader sees all of it or nothing.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "absl/strings/escaping.h"
#include "common/base/private_directory.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/digest.h"
#include "common/model/sha256.h"

namespace moepool {
namespace {

std::string Hex(const ModelDigest& digest) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

// Changes with the identity's fields or with the digest's own format.
std::string EntryName(const FileIdentity& file) {
  Sha256 sha;
  sha.Update(StrCat("2|", file.device, "|", file.inode, "|", file.bytes, "|", file.modified_ns, "|",
                    file.changed_ns, "|", file.path));
  return Hex(sha.Finish());
}

std::optional<ModelDigest> Load(int directory, const std::string& name) {
  const absl::StatusOr<UniqueFd> fd = OpenPrivateFile(directory, name);
  if (!fd.ok()) return std::nullopt;
  char text[65];
  if (read(fd->get(), text, sizeof(text)) != 64) return std::nullopt;
  for (int i = 0; i < 64; ++i) {
    if (std::strchr("0123456789abcdef", text[i]) == nullptr || text[i] == '\0') return std::nullopt;
  }
  const std::string raw = absl::HexStringToBytes(absl::string_view(text, 64));
  ModelDigest digest;
  std::memcpy(digest.data(), raw.data(), digest.size());
  return digest;
}

// Best effort: who cannot write computes again next time.
void Store(int directory, const std::string& name, const ModelDigest& digest) {
  const std::string partial = StrCat(".", name, ".", getpid(), ".partial");  // under the lock: one writer
  const UniqueFd fd(
      openat(directory, partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd.valid()) return;
  const std::string text = Hex(digest);
  const bool written = write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (!written || renameat(directory, partial.c_str(), directory, name.c_str()) != 0) {
    unlinkat(directory, partial.c_str(), 0);
  }
}

// Held until it is closed, or its process ends.
UniqueFd Lock(int directory, const std::string& lock_name) {
  UniqueFd fd(openat(directory, lock_name.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  while (fd.valid() && flock(fd.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return UniqueFd();
  }
  return fd;
}

}  // namespace

absl::StatusOr<ModelDigest> RememberedDigest(const FileIdentity& file,
                                             absl::FunctionRef<absl::StatusOr<ModelDigest>()> compute) {
  const std::string path = UserCachePath("digests");
  if (path.empty()) return compute();
  const absl::StatusOr<UniqueFd> directory = OpenPrivateDirectory(path);
  if (!directory.ok()) return compute();
  const std::string name = EntryName(file);
  if (std::optional<ModelDigest> known = Load(directory->get(), name)) return *known;
  const std::string lock_name = StrCat(name, ".lock");
  const UniqueFd lock = Lock(directory->get(), lock_name);
  if (std::optional<ModelDigest> known = Load(directory->get(), name)) return *known;
  MOEPOOL_ASSIGN_OR_RETURN(const ModelDigest digest, compute());
  Store(directory->get(), name, digest);
  // Who waits has it open and finds the digest; who comes later finds that first.
  unlinkat(directory->get(), lock_name.c_str(), 0);
  return digest;
}

}  // namespace moepool
