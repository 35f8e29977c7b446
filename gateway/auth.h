// Who may call: API keys, of which this process knows the SHA-256 alone. Whoever reads the file of keys, or
// this process's memory, cannot call with what he finds.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"

namespace moepool {

inline constexpr size_t kMaxApiKeys = 4096;
inline constexpr size_t kMaxApiKeyBytes = 512;

struct ApiKey {
  std::string name;                  // for logs: 1 to 64 of A-Z a-z 0-9 . _ -
  std::array<uint8_t, 32> sha256{};  // of the key's bytes
};

// Lines `NAME:SHA256` (64 hexadecimal digits); empty lines and those that begin with # are passed over.
// InvalidArgument names the line and what is wrong with it, and quotes no hash: also where a name or a hash
// comes twice, and where there is no key at all.
absl::StatusOr<std::vector<ApiKey>> ParseApiKeys(std::string_view text);

struct NewApiKey {
  std::string key;   // "mp-" and 43 characters that stand for 256 random bits
  std::string line;  // of the file, without its newline
};
// InvalidArgument where `name` is none.
absl::StatusOr<NewApiKey> MakeApiKey(std::string_view name);

// The keys of a file that may change while it is served. Thread-safe.
class ApiKeys {
 public:
  // Reads the file. The error of the system, or of ParseApiKeys, with the path; FailedPrecondition where
  // others than its owner and group may write to it. Warns in the log where all may read it.
  static absl::StatusOr<std::unique_ptr<ApiKeys>> Load(const std::string& path);

  // The name of the key in `authorization`, a header's value, "Bearer KEY". Unauthenticated says what is
  // missing and never what came. The time it takes says nothing about the keys: each is compared with all of
  // them to the end.
  absl::StatusOr<std::string> Check(std::string_view authorization);

  // Reads the file again where it is not the one last read. Check does so too, once a second at most. Where
  // the new one cannot be used the old keys stay, and the log says why.
  void Refresh();

 private:
  // What tells one state of a file from another.
  struct Version {
    uint64_t device = 0;
    uint64_t inode = 0;
    int64_t bytes = 0;
    int64_t modified_ns = 0;
    bool operator==(const Version&) const = default;
  };
  struct Contents {
    Version version;
    std::vector<ApiKey> keys;
  };

  explicit ApiKeys(std::string path) : path_(std::move(path)) {}
  static absl::StatusOr<Version> Look(const std::string& path);
  static absl::StatusOr<Contents> Read(const std::string& path);
  void RefreshLocked() REQUIRES(mutex_);

  const std::string path_;
  Mutex mutex_;
  std::shared_ptr<const std::vector<ApiKey>> keys_ GUARDED_BY(mutex_);
  Version seen_ GUARDED_BY(mutex_);  // the version last read, whether it could be used or not
  absl::Time looked_ GUARDED_BY(mutex_);
};

}  // namespace moepool
