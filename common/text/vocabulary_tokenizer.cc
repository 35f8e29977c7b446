#include "common/text/vocabulary_tokenizer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/utf8.h"

namespace moepool {
namespace {

constexpr size_t kMaxTextBytes = std::numeric_limits<int32_t>::max();

// Control tokens that end a turn or a text in the families served; files name at most two of them as EOS and
// EOT.
constexpr std::string_view kEndNames[] = {"<|im_end|>", "<|endoftext|>", "<|eot_id|>",      "<|eom_id|>",
                                          "<|end|>",    "</s>",          "<|end_of_text|>", "<end_of_turn>"};
// Of families that drop white space after matched tokens, those after which it stays.
constexpr std::string_view kNotStripped[] = {"<unk>", "<s>", "<|endoftext|>"};

bool IsControl(TokenType type) { return type == TokenType::kControl || type == TokenType::kUnknown; }

bool Contains(const auto& names, std::string_view spelling) {
  return std::find(std::begin(names), std::end(names), spelling) != std::end(names);
}

// Unicode's White_Space.
bool IsWhiteSpace(char32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

size_t WhiteSpacePrefix(std::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(bytes));
    if (step.kind != Utf8Kind::kCharacter || !IsWhiteSpace(step.code_point)) break;
    bytes += step.bytes;
  }
  return bytes;
}

}  // namespace

VocabularyTokenizer::VocabularyTokenizer(TokenizerSpec spec) : spec_(std::move(spec)) {
  bytes_.resize(spec_.tokens.size());
  ends_generation_.resize(spec_.tokens.size());
  strips_following_.resize(spec_.tokens.size());
  for (int32_t id = 0; id < VocabSize(); ++id) {
    const std::string& spelling = spec_.tokens[id];
    const TokenType type = Type(id);
    ends_generation_[id] =
        id == spec_.eos_id || id == spec_.eot_id || (IsControl(type) && Contains(kEndNames, spelling));
    strips_following_[id] = spec_.strip_after_special && !Contains(kNotStripped, spelling);
    if (!IsControl(type) && type != TokenType::kUserDefined) continue;
    bytes_[id] = spelling;
    if (spelling.empty()) continue;
    special_tokens_.Add(spelling, id);
    if (type == TokenType::kUserDefined) added_tokens_.Add(spelling, id);
  }
}

absl::StatusOr<std::vector<int32_t>> VocabularyTokenizer::Encode(std::string_view text,
                                                                 bool parse_special) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text of ", text.size(), " bytes, at most ", kMaxTextBytes));
  }
  const TokenTrie& tokens = parse_special ? special_tokens_ : added_tokens_;
  std::vector<int32_t> ids;
  for (size_t pos = 0; pos < text.size();) {
    const TokenTrie::Match match = tokens.Find(text, pos);
    if (match.begin > pos) {
      MOEPOOL_RETURN_IF_ERROR(EncodePlain(text.substr(pos, match.begin - pos), &ids));
    }
    pos = match.end;
    if (match.id < 0) continue;
    ids.push_back(match.id);
    if (strips_following_[match.id]) pos += WhiteSpacePrefix(text.substr(pos));
  }
  return ids;
}

std::string VocabularyTokenizer::Bytes(int32_t id, bool special) const {
  if (id < 0 || id >= VocabSize() || (!special && IsControl(Type(id)))) return "";
  return bytes_[id];
}

bool VocabularyTokenizer::EndsGeneration(int32_t id) const {
  return id >= 0 && id < VocabSize() && ends_generation_[id];
}

}  // namespace moepool
