#include "common/text/sentencepiece_normalizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/utf8.h"
#include "common/text/escaped_space.h"

namespace moepool {
namespace {

constexpr std::string_view kReplacement = "\uFFFD";
// NFKC makes at most 11 bytes of one (U+FDFA). A file may hold worse rules, and memory is for everybody.
constexpr size_t kMaxGrowth = 16;

}  // namespace

absl::StatusOr<SentencePieceNormalizer> SentencePieceNormalizer::Make(const TokenizerSpec& spec,
                                                                      bool keeps_invalid) {
  SentencePieceNormalizer normalizer;
  MOEPOOL_ASSIGN_OR_RETURN(normalizer.charsmap_, Charsmap::Parse(spec.precompiled_charsmap));
  normalizer.adds_prefix_ = spec.add_space_prefix;
  normalizer.removes_extra_spaces_ = spec.remove_extra_whitespaces;
  normalizer.keeps_invalid_ = keeps_invalid;
  return normalizer;
}

SentencePieceNormalizer::Part SentencePieceNormalizer::First(std::string_view text) const {
  if (const Charsmap::Match match = charsmap_.Find(text); match.bytes > 0) {
    return {match.bytes, match.replacement};
  }
  const Utf8Step step = NextUtf8(text);
  if (step.kind != Utf8Kind::kCharacter) return {1, keeps_invalid_ ? text.substr(0, 1) : kReplacement};
  return {static_cast<size_t>(step.bytes), text.substr(0, step.bytes)};
}

absl::StatusOr<std::string> SentencePieceNormalizer::Normalize(std::string_view text) const {
  const size_t limit = kMaxGrowth * (text.size() + kMaxGrowth);
  std::string normalized;
  if (removes_extra_spaces_) {
    while (!text.empty()) {
      const Part part = First(text);
      if (part.text != " ") break;
      text.remove_prefix(part.bytes);
    }
  }
  if (text.empty()) return normalized;
  normalized.reserve(text.size() + text.size() / 2);
  if (adds_prefix_) normalized += kEscapedSpace;
  bool drops_spaces = removes_extra_spaces_;
  while (!text.empty()) {
    Part part = First(text);
    text.remove_prefix(part.bytes);
    while (drops_spaces && part.text.starts_with(' ')) part.text.remove_prefix(1);
    if (part.text.empty()) continue;
    drops_spaces = removes_extra_spaces_ && part.text.ends_with(' ');
    for (const char c : part.text) {
      if (c == ' ') {
        normalized += kEscapedSpace;
      } else {
        normalized.push_back(c);
      }
    }
    if (normalized.size() > limit) {
      return absl::ResourceExhaustedError(
          absl::StrCat("tokenizer: normalisation makes over ", limit, " bytes of the text"));
    }
  }
  if (removes_extra_spaces_) {
    while (normalized.ends_with(kEscapedSpace)) normalized.resize(normalized.size() - kEscapedSpace.size());
  }
  return normalized;
}

}  // namespace moepool
