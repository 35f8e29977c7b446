// A grammar that begins where the text has come to a marker, such as the end of a model's thinking.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/constrain/matcher.h"

namespace moepool {

inline constexpr size_t kMaxMarkerBytes = 256;

// Thread-safe.
class TextConstraint {
 public:
  // Text is free up to and including the first `begin_after`; empty: from the first token. Behind a marker up
  // to two blanks or line ends may stand before the text of the grammar. `may_end_free`: the text may end
  // where it is still free. Errors as CompiledGrammar::Make's, and those of the mask where the grammar
  // begins.
  static absl::StatusOr<std::shared_ptr<const TextConstraint>> Make(
      std::string_view grammar, std::string begin_after, bool may_end_free,
      std::shared_ptr<const Vocabulary> vocabulary);

  size_t bytes() const EXCLUDES(mutex_);

 private:
  friend class TextMatcher;

  TextConstraint(std::shared_ptr<const CompiledGrammar> grammar, std::string marker, bool may_end_free);
  // How much of the marker `text` ends with where it was `matched` before; *rest is what follows the marker
  // where it is whole.
  size_t Follow(size_t matched, std::string_view text, std::string_view* rest) const;
  // Null: all. Leaves out tokens in which the marker ends and the grammar does not go on.
  std::shared_ptr<const IdBits> FreeMask(size_t matched) const EXCLUDES(mutex_);

  struct Known {
    bool is_known = false;
    std::shared_ptr<const IdBits> mask;
  };

  const std::shared_ptr<const CompiledGrammar> grammar_;
  const std::string marker_;
  const bool may_end_free_;
  std::vector<size_t> border_;  // [n]: of the marker's first n bytes, the longest proper prefix they end with
  mutable Mutex mutex_;
  mutable std::vector<Known> free_masks_ GUARDED_BY(mutex_);  // by bytes of the marker
};

// A text under way: a value, cheap to copy. Made anew and given the same ids it is in the same state.
class TextMatcher {
 public:
  explicit TextMatcher(std::shared_ptr<const TextConstraint> constraint)
      : constraint_(std::move(constraint)),
        matcher_(constraint_->grammar_),
        free_(!constraint_->marker_.empty()) {}

  // One bit for each id of the vocabulary, or null where all may come. Errors as Matcher::Mask's.
  absl::StatusOr<std::shared_ptr<const IdBits>> Mask() {
    if (free_) return constraint_->FreeMask(matched_);
    return matcher_.Mask();
  }
  // Whether the text may end here.
  bool MayEnd() const { return free_ ? constraint_->may_end_free_ : matcher_.CanEnd(); }
  // Whether nothing but the end may follow.
  bool IsComplete() const { return !free_ && matcher_.CanEnd() && !matcher_.CanGoOn(); }
  // False, and nothing is changed, where the mask lacks `id`, or going on with it takes too much.
  bool Accept(int32_t id);
  // An id that comes whatever the mask says: it may bring the marker, and what else it says is no part of
  // what the grammar sees unless the grammar has it so.
  void AcceptForced(int32_t id);

 private:
  bool Follow(int32_t id, bool forced);

  std::shared_ptr<const TextConstraint> constraint_;
  Matcher matcher_;
  bool free_;
  size_t matched_ = 0;  // bytes of the marker that the free text ends with
};

}  // namespace moepool
