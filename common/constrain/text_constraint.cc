#include "common/constrain/text_constraint.h"

#include <utility>

#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

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
    std::shared_ptr<const Vocabulary> vocabulary) {
  if (begin_after.size() > kMaxMarkerBytes) {
    return absl::InvalidArgumentError(StrCat("the text that a constraint begins after has ",
                                             begin_after.size(), " bytes, at most ", kMaxMarkerBytes,
                                             " are possible"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(Grammar grammar, ParseGrammar(text));
  if (!begin_after.empty()) AllowSpaceBefore(&grammar);
  MOEPOOL_ASSIGN_OR_RETURN(std::shared_ptr<const CompiledGrammar> compiled,
                           CompiledGrammar::Make(grammar, std::move(vocabulary)));
  MOEPOOL_RETURN_IF_ERROR(Matcher(compiled).Mask().status());
  return std::shared_ptr<const TextConstraint>(
      new TextConstraint(std::move(compiled), std::move(begin_after), may_end_free));
}

TextConstraint::TextConstraint(std::shared_ptr<const CompiledGrammar> grammar, std::string marker,
                               bool may_end_free)
    : grammar_(std::move(grammar)),
      marker_(std::move(marker)),
      may_end_free_(may_end_free),
      border_(marker_.size() + 1, 0),
      free_masks_(marker_.size()) {
  for (size_t n = 2; n <= marker_.size(); ++n) {
    size_t border = border_[n - 1];
    while (border > 0 && marker_[border] != marker_[n - 1]) border = border_[border];
    border_[n] = marker_[border] == marker_[n - 1] ? border + 1 : 0;
  }
}

size_t TextConstraint::bytes() const {
  size_t bytes = grammar_->bytes();
  MutexLock lock(&mutex_);
  for (const Known& known : free_masks_) {
    if (known.mask != nullptr) bytes += known.mask->size() * sizeof(uint64_t);
  }
  return bytes;
}

size_t TextConstraint::Follow(size_t matched, std::string_view text, std::string_view* rest) const {
  for (size_t i = 0; i < text.size(); ++i) {
    while (matched > 0 && marker_[matched] != text[i]) matched = border_[matched];
    if (marker_[matched] == text[i]) ++matched;
    if (matched < marker_.size()) continue;
    *rest = text.substr(i + 1);
    return matched;
  }
  return matched;
}

std::shared_ptr<const IdBits> TextConstraint::FreeMask(size_t matched) const {
  MutexLock lock(&mutex_);
  Known& known = free_masks_[matched];
  if (known.is_known) return known.mask;
  known.is_known = true;
  const Vocabulary& vocabulary = grammar_->vocabulary();
  const Matcher start(grammar_);
  std::vector<int32_t> refused;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    std::string_view rest;
    if (Follow(matched, vocabulary.spelling(id), &rest) < marker_.size() || rest.empty()) continue;
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
  std::string_view rest;
  const size_t matched = constraint_->Follow(matched_, vocabulary.spelling(id), &rest);
  if (matched < constraint_->marker_.size()) {
    matched_ = matched;
    return true;
  }
  if (!rest.empty() && !matcher_.Accept(rest) && !forced) return false;
  free_ = false;
  return true;
}

bool TextMatcher::Accept(int32_t id) { return free_ ? Follow(id, /*forced=*/false) : matcher_.Accept(id); }

void TextMatcher::AcceptForced(int32_t id) {
  if (free_) {
    Follow(id, /*forced=*/true);
  } else {
    matcher_.Accept(id);
  }
}

}  // namespace moepool
