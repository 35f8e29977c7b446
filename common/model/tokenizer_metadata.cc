// See tokenizer_metadata.h.
#include "common/model/tokenizer_metadata.h"

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kScores = "tokenizer.ggml.scores";
constexpr std::string_view kMerges = "tokenizer.ggml.merges";

absl::Status CheckLength(std::string_view key, size_t found, size_t expected) {
  if (found == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("key ", Quoted(key), " has ", found, " elements, expected ",
                                           expected, ", the size of the vocabulary"));
}

// -1 where absent. Writers put -1, or its bits as u32, for "none".
absl::Status ReadId(const GgufMetadata& metadata, std::string_view key, int vocab_size, int32_t* id) {
  constexpr int64_t kNoneAsU32 = 0xffffffff;
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t value, metadata.IntOr(key, -1));
  if (value == -1 || value == kNoneAsU32) return absl::OkStatus();
  if (value < 0 || value >= vocab_size) {
    return absl::InvalidArgumentError(StrCat("key ", Quoted(key), " is ", value,
                                             ", expected under the size of the vocabulary, ", vocab_size));
  }
  *id = static_cast<int32_t>(value);
  return absl::OkStatus();
}

absl::Status ReadTypes(const GgufMetadata& metadata, TokenizerSpec* spec) {
  spec->types.assign(spec->tokens.size(), TokenType::kNormal);
  if (!metadata.Has(kTypes)) return absl::OkStatus();
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<int64_t> types, metadata.Ints(kTypes));
  MOEPOOL_RETURN_IF_ERROR(CheckLength(kTypes, types.size(), spec->tokens.size()));
  constexpr int64_t kLast = static_cast<int64_t>(TokenType::kByte);
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] < 0 || types[i] > kLast) {
      return absl::InvalidArgumentError(StrCat("key ", Quoted(kTypes), ": token ", i, " has type ", types[i],
                                               ", expected within 0 to ", kLast));
    }
    spec->types[i] = static_cast<TokenType>(types[i]);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ReadTokenizer(const GgufMetadata& metadata, int vocab_size) {
  TokenizerSpec spec;
  if (!metadata.Has(kTokens)) return spec;
  MOEPOOL_ASSIGN_OR_RETURN(spec.model, metadata.StringOr("tokenizer.ggml.model", ""));
  MOEPOOL_ASSIGN_OR_RETURN(spec.pre, metadata.StringOr("tokenizer.ggml.pre", ""));
  MOEPOOL_ASSIGN_OR_RETURN(spec.chat_template, metadata.StringOr("tokenizer.chat_template", ""));
  MOEPOOL_ASSIGN_OR_RETURN(spec.tokens, metadata.Strings(kTokens));
  MOEPOOL_RETURN_IF_ERROR(CheckLength(kTokens, spec.tokens.size(), static_cast<size_t>(vocab_size)));
  MOEPOOL_RETURN_IF_ERROR(ReadTypes(metadata, &spec));
  if (metadata.Has(kScores)) {
    MOEPOOL_ASSIGN_OR_RETURN(spec.scores, metadata.Floats(kScores));
    MOEPOOL_RETURN_IF_ERROR(CheckLength(kScores, spec.scores.size(), spec.tokens.size()));
  }
  if (metadata.Has(kMerges)) {
    MOEPOOL_ASSIGN_OR_RETURN(spec.merges, metadata.Strings(kMerges));
  }
  const struct {
    std::string_view key;
    int32_t* id;
  } ids[] = {
      {"tokenizer.ggml.bos_token_id", &spec.bos_id},     {"tokenizer.ggml.eos_token_id", &spec.eos_id},
      {"tokenizer.ggml.eot_token_id", &spec.eot_id},     {"tokenizer.ggml.unknown_token_id", &spec.unk_id},
      {"tokenizer.ggml.padding_token_id", &spec.pad_id},
  };
  for (const auto& [key, id] : ids) MOEPOOL_RETURN_IF_ERROR(ReadId(metadata, key, vocab_size, id));
  // Files that leave these out rely on llama.cpp's defaults.
  const bool sentencepiece = spec.model == "llama";
  const bool add_bos = sentencepiece || spec.pre == "llama-bpe";
  MOEPOOL_ASSIGN_OR_RETURN(spec.add_bos, metadata.BoolOr("tokenizer.ggml.add_bos_token", add_bos));
  MOEPOOL_ASSIGN_OR_RETURN(spec.add_eos, metadata.BoolOr("tokenizer.ggml.add_eos_token", false));
  MOEPOOL_ASSIGN_OR_RETURN(spec.add_space_prefix,
                           metadata.BoolOr("tokenizer.ggml.add_space_prefix", sentencepiece));
  return spec;
}

}  // namespace moepool
