// Constraints by text: compiled once, kept for the next request that has the same, and forgotten where they
// take too much memory.
#pragma once

#include <list>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/constrain/text_constraint.h"
#include "common/model/model_source.h"
#include "common/trunk/trunk.h"

namespace moepool {

// Thread-safe.
class Constraints {
 public:
  static constexpr size_t kMaxKept = 32;
  static constexpr size_t kMaxKeptBytes = 256 << 20;

  explicit Constraints(std::shared_ptr<const ModelSource> source, size_t max_kept = kMaxKept,
                       size_t max_kept_bytes = kMaxKeptBytes)
      : source_(std::move(source)), max_kept_(max_kept), max_kept_bytes_(max_kept_bytes) {}
  // The matcher of a new answer. Compiles on the caller's thread, one at a time. InvalidArgument where the
  // constraint is malformed, needs what the vocabulary cannot write, or has no text but the empty one.
  absl::StatusOr<TextMatcher> Start(const Constraint& constraint) EXCLUDES(mutex_, compiling_);
  // How many are kept for later answers. Those of answers under way live on without being kept.
  size_t kept() const EXCLUDES(mutex_);

 private:
  using Compiled = std::shared_ptr<const TextConstraint>;

  Compiled Find(const std::string& key) EXCLUDES(mutex_);
  void Keep(std::string key, Compiled compiled) EXCLUDES(mutex_);
  // Forgets what was not used for longest, down to the bounds: constraints grow while they are used.
  void Trim() REQUIRES(mutex_);
  absl::StatusOr<std::shared_ptr<const Vocabulary>> LoadVocabulary() REQUIRES(compiling_);

  const std::shared_ptr<const ModelSource> source_;
  const size_t max_kept_;
  const size_t max_kept_bytes_;
  Mutex compiling_;
  std::shared_ptr<const Vocabulary> vocabulary_ GUARDED_BY(compiling_);  // from the first constraint on
  mutable Mutex mutex_;
  std::list<std::pair<std::string, Compiled>> kept_ GUARDED_BY(mutex_);  // the last used first
};

}  // namespace moepool
