// LoadDigest and StoreDigest (digest.h). One small file for each model file, named by a hash of its identity;
// it is written beside its name and renamed, so that a reader sees all of it or nothing.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "absl/strings/escaping.h"
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

// Empty where the environment names no place for it.
std::string CacheDirectory() {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg != nullptr && xdg[0] == '/') return StrCat(xdg, "/moepool/digests");
  const char* home = std::getenv("HOME");
  if (home != nullptr && home[0] == '/') return StrCat(home, "/.cache/moepool/digests");
  return "";
}

// Creates `path` and its parents with mode 0700. False where it is not a directory of this user's alone to
// write.
bool MakePrivateDirectory(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    mkdir(path.substr(0, slash).c_str(), 0700);
  }
  mkdir(path.c_str(), 0700);
  struct stat info;
  return lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == geteuid() &&
         (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

}  // namespace

std::optional<ModelDigest> LoadDigest(const FileIdentity& file) {
  const std::string directory = CacheDirectory();
  if (directory.empty()) return std::nullopt;
  const int fd =
      open(StrCat(directory, "/", EntryName(file)).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return std::nullopt;
  struct stat info;
  const bool ours = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid();
  char text[65];
  const ssize_t n = ours ? read(fd, text, sizeof(text)) : -1;
  close(fd);
  if (n != 64) return std::nullopt;
  for (int i = 0; i < 64; ++i) {
    if (std::strchr("0123456789abcdef", text[i]) == nullptr || text[i] == '\0') return std::nullopt;
  }
  const std::string raw = absl::HexStringToBytes(absl::string_view(text, 64));
  ModelDigest digest;
  std::memcpy(digest.data(), raw.data(), digest.size());
  return digest;
}

void StoreDigest(const FileIdentity& file, const ModelDigest& digest) {
  const std::string directory = CacheDirectory();
  if (directory.empty() || !MakePrivateDirectory(directory)) return;
  std::string partial = StrCat(directory, "/.partial-XXXXXX");
  const int fd = mkostemp(partial.data(), O_CLOEXEC);  // mode 0600
  if (fd < 0) return;
  const std::string text = Hex(digest);
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const bool closed = close(fd) == 0;
  const std::string name = StrCat(directory, "/", EntryName(file));
  if (!written || !closed || rename(partial.c_str(), name.c_str()) != 0) unlink(partial.c_str());
}

}  // namespace moepool
