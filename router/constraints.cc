#include "router/constraints.h"

#include <utility>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/tokenizer.h"

namespace moepool {
namespace {

// Names all that a compiled constraint depends on.
std::string KeyOf(const Constraint& constraint) {
  return StrCat(constraint.may_end_free ? "+" : "-", constraint.begin_after.size(), " ",
                constraint.thought_end.size(), " ", constraint.thought_start.size(), " ",
                constraint.begin_after, constraint.thought_end, constraint.thought_start, constraint.grammar);
}

}  // namespace

absl::StatusOr<TextMatcher> Constraints::Start(const Constraint& constraint) {
  std::string key = KeyOf(constraint);
  Compiled compiled = Find(key);
  if (compiled == nullptr) {
    MutexLock compile(&compiling_);
    compiled = Find(key);  // another caller may have brought it
    if (compiled == nullptr) {
      MOEPOOL_ASSIGN_OR_RETURN(std::shared_ptr<const Vocabulary> vocabulary, LoadVocabulary());
      MOEPOOL_ASSIGN_OR_RETURN(
          compiled,
          TextConstraint::Make(constraint.grammar, constraint.begin_after, constraint.may_end_free,
                               std::move(vocabulary), {constraint.thought_end, constraint.thought_start}));
      Keep(std::move(key), compiled);
    }
  }
  TextMatcher matcher(std::move(compiled));
  if (matcher.IsComplete()) return absl::InvalidArgumentError("the grammar has no text but the empty one");
  return matcher;
}

Constraints::Compiled Constraints::Find(const std::string& key) {
  MutexLock lock(&mutex_);
  for (auto it = kept_.begin(); it != kept_.end(); ++it) {
    if (it->first != key) continue;
    kept_.splice(kept_.begin(), kept_, it);
    Compiled found = it->second;
    Trim();
    return found;
  }
  return nullptr;
}

void Constraints::Keep(std::string key, Compiled compiled) {
  MutexLock lock(&mutex_);
  kept_.emplace_front(std::move(key), std::move(compiled));
  Trim();
}

size_t Constraints::kept() const {
  MutexLock lock(&mutex_);
  return kept_.size();
}

void Constraints::Trim() {
  size_t bytes = 0;
  size_t count = 0;
  for (auto it = kept_.begin(); it != kept_.end(); ++it) {
    bytes += it->first.size() + it->second->bytes();
    if (++count == 1 || (count <= max_kept_ && bytes <= max_kept_bytes_)) continue;
    kept_.erase(it, kept_.end());
    return;
  }
}

absl::StatusOr<std::shared_ptr<const Vocabulary>> Constraints::LoadVocabulary() {
  if (vocabulary_ != nullptr) return vocabulary_;
  const auto tokenizer = MakeTokenizer(source_->Tokenizer());
  if (!tokenizer.ok()) {
    return absl::FailedPreconditionError(
        StrCat("the model's tokenizer allows no constraints: ", ToStd(tokenizer.status().message())));
  }
  MOEPOOL_ASSIGN_OR_RETURN(vocabulary_, Vocabulary::Make(**tokenizer));
  return vocabulary_;
}

}  // namespace moepool
