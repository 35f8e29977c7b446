// DRY's breakers are strings; the sampler knows ids. Which ids and sequences of ids spell a breaker is found
// in the vocabulary here, by the rule of llama.cpp.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/text/tokenizer.h"

namespace moepool {

struct DryBreakers {
  std::vector<int32_t> ids;                     // hold a breaker in themselves; ascending
  std::vector<std::vector<int32_t>> sequences;  // begin a breaker and complete it; in lexicographic order
};

// A token that contains a breaker is one. A token that ends with the beginning of a breaker is one together
// with the tokens of the breaker's rest, of which the first 20 count.
absl::StatusOr<DryBreakers> FindDryBreakers(const Tokenizer& tokenizer,
                                            const std::vector<std::string>& breakers);

// Remembers what was found: a look through the vocabulary takes milliseconds. Thread-safe.
class DryBreakerCache {
 public:
  // `tokenizer` outlives this.
  explicit DryBreakerCache(const Tokenizer* tokenizer) : tokenizer_(*tokenizer) {}
  // Errors are those of Tokenizer::Encode.
  absl::StatusOr<std::shared_ptr<const DryBreakers>> Get(const std::vector<std::string>& breakers);

 private:
  static constexpr size_t kMaxEntries = 32;

  const Tokenizer& tokenizer_;
  Mutex mutex_;
  absl::flat_hash_map<std::vector<std::string>, std::shared_ptr<const DryBreakers>> found_ GUARDED_BY(mutex_);
};

}  // namespace moepool
