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
  explicit Constraints(std::shared_ptr<const ModelSource> source) : source_(std::move(source)) {}
  // The matcher of a new answer. Compiles on the caller's thread, one at a time. InvalidArgument where the
  // constraint is malformed, needs what the vocabulary cannot write, or has no text but the empty one.
  absl::StatusOr<TextMatcher> Start(const Constraint& constraint) EXCLUDES(mutex_, compiling_);

 private:
  using Compiled = std::shared_ptr<const TextConstraint>;

  Compiled Find(const std::string& key) EXCLUDES(mutex_);
  void Keep(std::string key, Compiled compiled) EXCLUDES(mutex_);
  absl::StatusOr<std::shared_ptr<const Vocabulary>> LoadVocabulary() REQUIRES(compiling_);

  const std::shared_ptr<const ModelSource> source_;
  Mutex compiling_;
  std::shared_ptr<const Vocabulary> vocabulary_ GUARDED_BY(compiling_);  // from the first constraint on
  Mutex mutex_;
  std::list<std::pair<std::string, Compiled>> kept_ GUARDED_BY(mutex_);  // the last used first
};

}  // namespace moepool
