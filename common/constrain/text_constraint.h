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

// What a model thinks before its text begins.
struct ThoughtMarkers {
  std::string end;    // empty: it does not think
  std::string start;  // empty: it has begun to; otherwise only a text that begins with this has thoughts
};

// Thread-safe.
class TextConstraint {
 public:
  // Text is free up to and including the first `begin_after`; empty: from the first token. Behind a marker up
  // to two blanks or line ends may stand before the text of the grammar. `may_end_free`: the text may end
  // where it is still free. `begin_after` is not looked for in thoughts.
  // InvalidArgument: CompiledGrammar::Make's and those of the mask where the grammar begins, a marker that is
  // too long, thoughts without a `begin_after` or that begin with it.
  static absl::StatusOr<std::shared_ptr<const TextConstraint>> Make(
      std::string_view grammar, std::string begin_after, bool may_end_free,
      std::shared_ptr<const Vocabulary> vocabulary, ThoughtMarkers thoughts = {});

  size_t bytes() const EXCLUDES(mutex_);

 private:
  friend class TextMatcher;

  // A text that is looked for, and how far it goes on after a mismatch.
  class Marker {
   public:
    explicit Marker(std::string text);
    // How much of the marker the text ends with, of which it had `matched` before `text` came; where that is
    // all, *text is what follows the marker.
    size_t Follow(size_t matched, std::string_view* text) const;
    const std::string& text() const { return text_; }
    size_t size() const { return text_.size(); }

   private:
    std::string text_;
    std::vector<size_t> border_;  // [n]: of the first n bytes, the longest proper prefix they end with
  };

  // Where a text is; `matched` bytes of the marker that ends the stage have come.
  enum class Stage : uint8_t { kBefore, kThinking, kFree, kGrammar };
  struct Place {
    Stage stage;
    size_t matched = 0;
  };

  TextConstraint(std::shared_ptr<const CompiledGrammar> grammar, std::string begin_after, bool may_end_free,
                 ThoughtMarkers thoughts);
  Place Start() const;
  // Moves `place` past `text`, or to where the grammar begins: what is left is the grammar's.
  std::string_view Follow(std::string_view text, Place* place) const;
  // Null: all. Leaves out tokens in which the marker ends and the grammar does not go on.
  std::shared_ptr<const IdBits> FreeMask(const Place& place) const EXCLUDES(mutex_);

  struct Known {
    bool is_known = false;
    std::shared_ptr<const IdBits> mask;
  };

  const std::shared_ptr<const CompiledGrammar> grammar_;
  const Marker begin_after_;
  const Marker thought_end_;
  const std::string thought_start_;
  const bool may_end_free_;
  std::vector<int32_t> may_begin_;  // tokens in which begin_after may end before their end
  mutable Mutex mutex_;
  mutable std::vector<Known> free_masks_ GUARDED_BY(mutex_);  // by place
};

// A text under way: a value, cheap to copy. Made anew and given the same ids it is in the same state.
class TextMatcher {
 public:
  explicit TextMatcher(std::shared_ptr<const TextConstraint> constraint)
      : constraint_(std::move(constraint)), matcher_(constraint_->grammar_), place_(constraint_->Start()) {}

  // One bit for each id of the vocabulary, or null where all may come. Errors as Matcher::Mask's.
  absl::StatusOr<std::shared_ptr<const IdBits>> Mask() {
    if (free()) return constraint_->FreeMask(place_);
    return matcher_.Mask();
  }
  // Whether the text may end here.
  bool MayEnd() const { return free() ? constraint_->may_end_free_ : matcher_.CanEnd(); }
  // Whether nothing but the end may follow.
  bool IsComplete() const { return !free() && matcher_.CanEnd() && !matcher_.CanGoOn(); }
  // False, and nothing is changed, where the mask lacks `id`, or going on with it takes too much.
  bool Accept(int32_t id);
  // An id that comes whatever the mask says: it may bring the marker, and what else it says is no part of
  // what the grammar sees unless the grammar has it so.
  void AcceptForced(int32_t id);

 private:
  bool free() const { return place_.stage != TextConstraint::Stage::kGrammar; }
  bool Follow(int32_t id, bool forced);

  std::shared_ptr<const TextConstraint> constraint_;
  Matcher matcher_;
  TextConstraint::Place place_;
};

}  // namespace moepool
