#include "common/text/sentencepiece_tokenizer.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/escaped_space.h"
#include "common/text/tokenizer_checks.h"

namespace moepool {
namespace {

// Of a piece that text becomes. Far over any in use, and low enough that look-ups of every part of a piece,
// or of every piece at a position, stay cheap.
constexpr size_t kMaxPieceBytes = 512;

// "<0x0A>", as SentencePiece spells the token of a byte.
std::optional<uint8_t> ByteFromSpelling(std::string_view spelling) {
  if (spelling.size() != 6 || !spelling.starts_with("<0x") || spelling.back() != '>') return std::nullopt;
  uint8_t byte = 0;
  const char* end = spelling.data() + 5;
  const auto [parsed, error] = std::from_chars(spelling.data() + 3, end, byte, 16);
  if (error != std::errc() || parsed != end) return std::nullopt;
  return byte;
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(TokenizerSpec spec) : VocabularyTokenizer(std::move(spec)) {
  byte_ids_.fill(-1);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Make(TokenizerSpec spec) {
  MOEPOOL_RETURN_IF_ERROR(CheckTokenizerSpec(spec));
  if (spec.scores.size() != spec.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", spec.scores.size(), " token scores for ",
                                                   spec.tokens.size(), " tokens, and model \"", spec.model,
                                                   "\" needs one for each"));
  }
  std::unique_ptr<SentencePieceTokenizer> tokenizer(new SentencePieceTokenizer(std::move(spec)));
  MOEPOOL_RETURN_IF_ERROR(tokenizer->Load());
  return tokenizer;
}

absl::Status SentencePieceTokenizer::Load() {
  MOEPOOL_RETURN_IF_ERROR(LoadByteTokens());
  MOEPOOL_ASSIGN_OR_RETURN(SentencePieceNormalizer normalizer,
                           SentencePieceNormalizer::Make(Spec(), has_byte_tokens_));
  normalizer_ = std::make_unique<SentencePieceNormalizer>(std::move(normalizer));
  SentencePieces vocabulary;
  vocabulary.vocab_size = VocabSize();
  for (int32_t id = 0; id < VocabSize(); ++id) {
    const bool is_user_defined = Type(id) == TokenType::kUserDefined;
    if (!is_user_defined && Type(id) != TokenType::kNormal && Type(id) != TokenType::kUndefined) continue;
    const std::string& spelling = Spec().tokens[id];
    const float score = Spec().scores[id];
    if (spelling.empty() || spelling.size() > kMaxPieceBytes) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: token ", id, " has ", spelling.size(),
                                                     " bytes, expected 1 to ", kMaxPieceBytes));
    }
    if (!std::isfinite(score)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: token ", id, " has the score ", score, ", expected a finite number"));
    }
    SetBytes(id, UnescapeSpaces(spelling));
    (is_user_defined ? vocabulary.user_defined : vocabulary.pieces).push_back({spelling, id, score});
  }
  model_ = Spec().model == "t5" ? MakeUnigram(vocabulary) : MakeSentencePieceBpe(vocabulary);
  return absl::OkStatus();
}

absl::Status SentencePieceTokenizer::LoadByteTokens() {
  int found = 0;
  int32_t first_unknown = -1;
  for (int32_t id = 0; id < VocabSize(); ++id) {
    if (Type(id) == TokenType::kUnknown && first_unknown < 0) first_unknown = id;
    if (Type(id) != TokenType::kByte) continue;
    const std::string& spelling = Spec().tokens[id];
    const std::optional<uint8_t> byte = ByteFromSpelling(spelling);
    if (!byte.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: token ", id, " is a byte, but spelled \"",
                                                     spelling, "\", expected \"<0x00>\" to \"<0xFF>\""));
    }
    if (byte_ids_[*byte] >= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: tokens ", byte_ids_[*byte], " and ", id, " are both the byte ", *byte));
    }
    byte_ids_[*byte] = id;
    SetBytes(id, std::string(1, static_cast<char>(*byte)));
    ++found;
  }
  if (found != 0 && found != 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: ", found, " byte tokens, expected 256 or none"));
  }
  has_byte_tokens_ = found != 0;
  unk_id_ = Spec().unk_id >= 0 ? Spec().unk_id : first_unknown;
  if (!has_byte_tokens_ && unk_id_ < 0) {
    return absl::InvalidArgumentError(
        "tokenizer: no byte tokens and no unknown token, so characters without a piece have no id");
  }
  return absl::OkStatus();
}

absl::Status SentencePieceTokenizer::EncodePlain(std::string_view text, std::vector<int32_t>* ids) const {
  MOEPOOL_ASSIGN_OR_RETURN(const std::string normalized, normalizer_->Normalize(text));
  if (normalized.empty()) return absl::OkStatus();
  constexpr size_t kMaxBytes = std::numeric_limits<int32_t>::max();
  if (normalized.size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("normalised text of ", normalized.size(), " bytes, at most ", kMaxBytes));
  }
  bool after_unknown = false;
  for (const SentencePieceModel::Segment& segment : model_->Cut(normalized)) {
    if (segment.id >= 0) {
      ids->push_back(segment.id);
    } else if (has_byte_tokens_) {
      for (size_t i = segment.begin; i < segment.end; ++i) {
        ids->push_back(byte_ids_[static_cast<uint8_t>(normalized[i])]);
      }
    } else if (!after_unknown) {
      ids->push_back(unk_id_);
    }
    after_unknown = segment.id < 0;
  }
  return absl::OkStatus();
}

}  // namespace moepool
