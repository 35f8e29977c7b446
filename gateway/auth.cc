#include "gateway/auth.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/unique_fd.h"

namespace moepool {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxNameBytes = 64;
constexpr size_t kRandomBytes = 32;
constexpr absl::Duration kLookInterval = absl::Seconds(1);

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

std::array<uint8_t, 32> Sha256Of(std::string_view text) {
  std::array<uint8_t, 32> digest;
  SHA256(reinterpret_cast<const uint8_t*>(text.data()), text.size(), digest.data());
  return digest;
}

bool IsKeyName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
}

absl::StatusOr<ApiKey> ParseLine(absl::string_view line) {
  const size_t colon = line.find(':');
  if (colon == absl::string_view::npos) return absl::InvalidArgumentError("has no ':'; expected NAME:SHA256");
  ApiKey key;
  key.name = std::string(line.substr(0, colon));
  if (!IsKeyName(key.name)) {
    return absl::InvalidArgumentError("the name before ':' is not 1 to 64 of A-Z a-z 0-9 . _ -");
  }
  const absl::string_view digits = line.substr(colon + 1);
  const bool hexadecimal = std::all_of(digits.begin(), digits.end(), [](char c) {
    return absl::ascii_isxdigit(static_cast<unsigned char>(c));
  });
  if (digits.size() != 2 * key.sha256.size() || !hexadecimal) {
    return absl::InvalidArgumentError(
        absl::StrCat("what follows ", key.name, ": is not a SHA-256 of 64 hexadecimal digits"));
  }
  const std::string bytes = absl::HexStringToBytes(digits);
  std::copy(bytes.begin(), bytes.end(), key.sha256.begin());
  return key;
}

absl::Status SystemError(const std::string& path, const char* what) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot ", what));
}

}  // namespace

absl::StatusOr<std::vector<ApiKey>> ParseApiKeys(std::string_view text) {
  std::vector<ApiKey> keys;
  absl::flat_hash_set<std::string> names;
  absl::flat_hash_set<std::string> hashes;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(View(text), '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    const auto wrong = [number](absl::string_view why) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", why));
    };
    absl::StatusOr<ApiKey> key = ParseLine(line);
    if (!key.ok()) return wrong(key.status().message());
    if (!names.insert(key->name).second) return wrong(absl::StrCat("the name ", key->name, " comes twice"));
    if (!hashes.emplace(key->sha256.begin(), key->sha256.end()).second) {
      return wrong(absl::StrCat("the key of ", key->name, " has another name already"));
    }
    if (keys.size() == kMaxApiKeys) return wrong(absl::StrCat("more than ", kMaxApiKeys, " keys"));
    keys.push_back(*std::move(key));
  }
  if (keys.empty()) return absl::InvalidArgumentError("holds no key; `moepool key NAME` makes one");
  return keys;
}

absl::StatusOr<NewApiKey> MakeApiKey(std::string_view name) {
  if (!IsKeyName(View(name))) {
    return absl::InvalidArgumentError("the name of a key is 1 to 64 of A-Z a-z 0-9 . _ -");
  }
  uint8_t random[kRandomBytes];
  if (RAND_bytes(random, sizeof(random)) != 1) {
    return absl::InternalError("the system gives no random bytes");
  }
  NewApiKey made;
  made.key = absl::StrCat("mp-", absl::WebSafeBase64Escape(absl::string_view(
                                     reinterpret_cast<const char*>(random), sizeof(random))));
  OPENSSL_cleanse(random, sizeof(random));
  const auto digest = Sha256Of(made.key);
  made.line = absl::StrCat(
      View(name), ":", absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()}));
  return made;
}

absl::StatusOr<ApiKeys::Version> ApiKeys::Look(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return SystemError(path, "be read");
  return Version{info.st_dev, info.st_ino, info.st_size,
                 info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
}

absl::StatusOr<ApiKeys::Contents> ApiKeys::Read(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info;
  if (!file.valid() || fstat(file.get(), &info) != 0) return SystemError(path, "be read");
  if (!S_ISREG(info.st_mode)) return absl::FailedPreconditionError(absl::StrCat(path, ": not a file"));
  if ((info.st_mode & S_IWOTH) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": everyone may write to it, and so give himself a key; chmod o-w"));
  }
  std::string text(kMaxFileBytes + 1, '\0');
  size_t bytes = 0;
  while (bytes < text.size()) {
    const ssize_t got = read(file.get(), text.data() + bytes, text.size() - bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(path, "be read");
    if (got == 0) break;
    bytes += static_cast<size_t>(got);
  }
  if (bytes > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": more than ", kMaxFileBytes, " bytes"));
  }
  text.resize(bytes);
  Contents contents;
  contents.version = {info.st_dev, info.st_ino, info.st_size,
                      info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
  absl::StatusOr<std::vector<ApiKey>> keys = ParseApiKeys(text);
  if (!keys.ok()) {
    return absl::Status(keys.status().code(), absl::StrCat(path, ": ", keys.status().message()));
  }
  contents.keys = *std::move(keys);
  if ((info.st_mode & S_IROTH) != 0) {
    Log(LogLevel::kWarning, "everyone may read the hashes of API keys",
        {{"path", path}, {"remedy", "chmod o-r"}});
  }
  return contents;
}

absl::StatusOr<std::unique_ptr<ApiKeys>> ApiKeys::Load(const std::string& path) {
  MOEPOOL_ASSIGN_OR_RETURN(Contents contents, Read(path));
  std::unique_ptr<ApiKeys> keys(new ApiKeys(path));
  MutexLock lock(&keys->mutex_);
  keys->seen_ = contents.version;
  keys->looked_ = absl::Now();
  keys->keys_ = std::make_shared<const std::vector<ApiKey>>(std::move(contents.keys));
  return keys;
}

absl::StatusOr<std::string> ApiKeys::Check(std::string_view authorization) {
  absl::string_view presented = absl::StripAsciiWhitespace(View(authorization));
  if (presented.empty()) {
    return absl::UnauthenticatedError("this server asks for an API key: Authorization: Bearer KEY");
  }
  constexpr absl::string_view kScheme = "bearer ";
  if (!absl::StartsWithIgnoreCase(presented, kScheme)) {
    return absl::UnauthenticatedError("the Authorization header is not of the form: Bearer KEY");
  }
  presented = absl::StripLeadingAsciiWhitespace(presented.substr(kScheme.size()));
  if (presented.size() > kMaxApiKeyBytes) {
    return absl::UnauthenticatedError(absl::StrCat("the API key presented has ", presented.size(),
                                                   " bytes, and none has more than ", kMaxApiKeyBytes));
  }
  std::shared_ptr<const std::vector<ApiKey>> keys;
  {
    MutexLock lock(&mutex_);
    if (const absl::Time now = absl::Now(); now - looked_ >= kLookInterval) {
      looked_ = now;
      RefreshLocked();
    }
    keys = keys_;
  }
  const auto digest = Sha256Of({presented.data(), presented.size()});
  const ApiKey* found = nullptr;
  for (const ApiKey& key : *keys) {
    const bool same = CRYPTO_memcmp(key.sha256.data(), digest.data(), digest.size()) == 0;
    found = same ? &key : found;
  }
  if (found == nullptr)
    return absl::UnauthenticatedError("the API key presented is not one of this server's");
  return found->name;
}

void ApiKeys::Refresh() {
  MutexLock lock(&mutex_);
  RefreshLocked();
}

void ApiKeys::RefreshLocked() {
  const auto keep = [](const absl::Status& status) {
    Log(LogLevel::kError, "API keys stay as they were", {{"error", std::string(status.message())}});
  };
  const absl::StatusOr<Version> version = Look(path_);
  // A file that is gone is told of once.
  if (version.ok() ? *version == seen_ : seen_ == Version{}) return;
  seen_ = version.value_or(Version{});
  if (!version.ok()) return keep(version.status());
  absl::StatusOr<Contents> contents = Read(path_);
  if (!contents.ok()) return keep(contents.status());
  seen_ = contents->version;
  keys_ = std::make_shared<const std::vector<ApiKey>>(std::move(contents->keys));
  Log(LogLevel::kInfo, "API keys read again", {{"path", path_}, {"keys", keys_->size()}});
}

}  // namespace moepool
