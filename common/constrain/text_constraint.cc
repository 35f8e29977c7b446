#include "common/constrain/text_constraint.h"

#include <utility>

#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// The grammar behind up to two blanks or line ends.
void AllowSpaceBefore(Grammar* grammar) {
  const auto add = [grammar](GrammarExpr expr) {
    grammar->exprs.push_back(std::move(expr));
    return static_cast<uint32_t>(grammar->exprs.size() - 1);
  };
  grammar->sets.push_back(CodePointSet({{' ', ' '}, {'\n', '\n'}}));
  GrammarExpr space;
  space.kind = GrammarExpr::Kind::kChars;
  space.index = static_cast<uint32_t>(grammar->sets.size() - 1);
  GrammarExpr spaces;
  spaces.kind = GrammarExpr::Kind::kRepeat;
  spaces.max = 2;
  spaces.parts = {add(std::move(space))};
  GrammarExpr root;
  root.kind = GrammarExpr::Kind::kRule;
  root.index = grammar->root;
  GrammarExpr whole;
  const uint32_t before = add(std::move(spaces));
  whole.parts = {before, add(std::move(root))};
  GrammarRule rule = grammar->rules[grammar->root];
  rule.body = add(std::move(whole));
  grammar->root = static_cast<uint32_t>(grammar->rules.size());
  grammar->rules.push_back(std::move(rule));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TextConstraint>> TextConstraint::Make(
    std::string_view text, std::string begin_after, bool may_end_free,
    std::shared_ptr<const Vocabulary> vocabulary, ThoughtMarkers thoughts) {
  for (const std::string* marker : {&begin_after, &thoughts.end, &thoughts.start}) {
    if (marker->size() <= kMaxMarkerBytes) continue;
    return absl::InvalidArgumentError(StrCat("the text that a constraint begins after has ", marker->size(),
                                             " bytes, at most ", kMaxMarkerBytes, " are possible"));
  }
  if (thoughts.end.empty()) thoughts.start.clear();
  if (!thoughts.end.empty() && begin_after.empty()) {
    return absl::InvalidArgumentError("a constraint behind thoughts has no text that it begins after");
  }
  if (!begin_after.empty() && thoughts.start.find(begin_after) != std::string::npos) {
    return absl::InvalidArgumentError(
        StrCat("a constraint begins after '", begin_after, "', which is in what thoughts begin with"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(Grammar grammar, ParseGrammar(text));
  if (!begin_after.empty()) AllowSpaceBefore(&grammar);
  MOEPOOL_ASSIGN_OR_RETURN(std::shared_ptr<const CompiledGrammar> compiled,
                           CompiledGrammar::Make(grammar, std::move(vocabulary)));
  MOEPOOL_RETURN_IF_ERROR(Matcher(compiled).Mask().status());
  return std::shared_ptr<const TextConstraint>(
      new TextConstraint(std::move(compiled), std::move(begin_after), may_end_free, std::move(thoughts)));
}

TextConstraint::Marker::Marker(std::string text) : text_(std::move(text)), border_(text_.size() + 1, 0) {
  for (size_t n = 2; n <= text_.size(); ++n) {
    size_t border = border_[n - 1];
    while (border > 0 && text_[border] != text_[n - 1]) border = border_[border];
    border_[n] = text_[border] == text_[n - 1] ? border + 1 : 0;
  }
}

size_t TextConstraint::Marker::Follow(size_t matched, std::string_view* text) const {
  for (size_t i = 0; i < text->size(); ++i) {
    while (matched > 0 && text_[matched] != (*text)[i]) matched = border_[matched];
    if (text_[matched] == (*text)[i]) ++matched;
    if (matched < text_.size()) continue;
    text->remove_prefix(i + 1);
    return matched;
  }
  return matched;
}

TextConstraint::TextConstraint(std::shared_ptr<const CompiledGrammar> grammar, std::string begin_after,
                               bool may_end_free, ThoughtMarkers thoughts)
    : grammar_(std::move(grammar)),
      begin_after_(std::move(begin_after)),
      thought_end_(std::move(thoughts.end)),
      thought_start_(std::move(thoughts.start)),
      may_end_free_(may_end_free),
      free_masks_(begin_after_.size() + thought_end_.size() + thought_start_.size()) {
  if (begin_after_.size() == 0) return;
  const Vocabulary& vocabulary = grammar_->vocabulary();
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view token = vocabulary.spelling(id);
    const size_t at = token.find(begin_after_.text().back());
    if (at != std::string_view::npos && at + 1 < token.size()) may_begin_.push_back(id);
  }
}

size_t TextConstraint::bytes() const {
  size_t bytes = grammar_->bytes() + may_begin_.size() * sizeof(int32_t);
  MutexLock lock(&mutex_);
  for (const Known& known : free_masks_) {
    if (known.mask != nullptr) bytes += known.mask->size() * sizeof(uint64_t);
  }
  return bytes;
}

TextConstraint::Place TextConstraint::Start() const {
  if (begin_after_.size() == 0) return {Stage::kGrammar};
  if (thought_end_.size() == 0) return {Stage::kFree};
  return {thought_start_.empty() ? Stage::kThinking : Stage::kBefore};
}

std::string_view TextConstraint::Follow(std::string_view text, Place* place) const {
  while (place->stage == Stage::kBefore && !text.empty()) {
    if (place->matched == 0 && IsSpace(text[0])) {
      text.remove_prefix(1);
    } else if (text[0] == thought_start_[place->matched]) {
      text.remove_prefix(1);
      if (++place->matched == thought_start_.size()) *place = {Stage::kThinking};
    } else {
      // It does not think, and what looked like the beginning of thoughts may begin the marker.
      std::string_view before = std::string_view(thought_start_).substr(0, place->matched);
      *place = {Stage::kFree, begin_after_.Follow(0, &before)};
    }
  }
  if (place->stage == Stage::kThinking) {
    place->matched = thought_end_.Follow(place->matched, &text);
    if (place->matched < thought_end_.size()) return {};
    *place = {Stage::kFree};
  }
  if (place->stage == Stage::kFree) {
    place->matched = begin_after_.Follow(place->matched, &text);
    if (place->matched < begin_after_.size()) return {};
    *place = {Stage::kGrammar};
  }
  return text;
}

std::shared_ptr<const IdBits> TextConstraint::FreeMask(const Place& place) const {
  const size_t stage = place.stage == Stage::kFree       ? 0
                       : place.stage == Stage::kThinking ? begin_after_.size()
                                                         : begin_after_.size() + thought_end_.size();
  MutexLock lock(&mutex_);
  Known& known = free_masks_[stage + place.matched];
  if (known.is_known) return known.mask;
  known.is_known = true;
  const Vocabulary& vocabulary = grammar_->vocabulary();
  const Matcher start(grammar_);
  std::vector<int32_t> refused;
  for (const int32_t id : may_begin_) {
    Place after = place;
    const std::string_view rest = Follow(vocabulary.spelling(id), &after);
    if (after.stage != Stage::kGrammar || rest.empty()) continue;
    Matcher matcher = start;
    if (!matcher.Accept(rest)) refused.push_back(id);
  }
  if (refused.empty()) return nullptr;
  IdBits bits(vocabulary.words(), ~uint64_t{0});
  for (const int32_t id : refused) bits[static_cast<size_t>(id) / 64] &= ~(uint64_t{1} << (id % 64));
  known.mask = std::make_shared<const IdBits>(std::move(bits));
  return known.mask;
}

bool TextMatcher::Follow(int32_t id, bool forced) {
  const Vocabulary& vocabulary = constraint_->grammar_->vocabulary();
  if (id < 0 || id >= vocabulary.size()) return true;  // of a model with more ids than its tokenizer
  TextConstraint::Place after = place_;
  const std::string_view rest = constraint_->Follow(vocabulary.spelling(id), &after);
  const bool begun = after.stage == TextConstraint::Stage::kGrammar;
  if (begun && !rest.empty() && !matcher_.Accept(rest) && !forced) return false;
  place_ = after;
  return true;
}

bool TextMatcher::Accept(int32_t id) { return free() ? Follow(id, /*forced=*/false) : matcher_.Accept(id); }

void TextMatcher::AcceptForced(int32_t id) {
  if (free()) {
    Follow(id, /*forced=*/true);
  } else {
    matcher_.Accept(id);
  }
}

}  // namespace moepool
