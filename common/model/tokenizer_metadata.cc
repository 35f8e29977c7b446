// See tokenizer_metadata.h.
#include "common/model/tokenizer_metadata.h"

#include <algorithm>
#include <iterator>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kScores = "tokenizer.ggml.scores";
constexpr std::string_view kMerges = "tokenizer.ggml.merges";
constexpr std::string_view kCharsmap = "tokenizer.ggml.precompiled_charsmap";

// Pre-tokenizers whose models begin each text with BOS.
constexpr std::string_view kBeginWithBos[] = {"llama-bpe", "llama3", "llama-v3", "tekken"};

absl::Status CheckLength(std::string_view key, size_t found, size_t expected) {
  if (found == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("key ", Quoted(key), " has ", found, " elements, expected ",
                                           expected, ", the size of the vocabulary"));
}

// Leaves *id as it is where the key is absent. Writers put -1, or its bits as u32, for "none".
absl::Status ReadId(const GgufMetadata& metadata, std::string_view key, int vocab_size, int32_t* id) {
  constexpr int64_t kNoneAsU32 = 0xffffffff;
  if (!metadata.Has(key)) return absl::OkStatus();
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t value, metadata.Int(key));
  if (value == -1 || value == kNoneAsU32) {
    *id = -1;
    return absl::OkStatus();
  }
  if (value < 0 || value >= vocab_size) {
    return absl::InvalidArgumentError(StrCat("key ", Quoted(key), " is ", value,
                                             ", expected under the size of the vocabulary, ", vocab_size));
  }
  *id = static_cast<int32_t>(value);
  return absl::OkStatus();
}

// Written as i8 or u8.
absl::Status ReadCharsmap(const GgufMetadata& metadata, TokenizerSpec* spec) {
  if (!metadata.Has(kCharsmap)) return absl::OkStatus();
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<int64_t> bytes, metadata.Ints(kCharsmap));
  spec->precompiled_charsmap.reserve(bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] < -128 || bytes[i] > 255) {
      return absl::InvalidArgumentError(
          StrCat("key ", Quoted(kCharsmap), ": element ", i, " is ", bytes[i], ", expected a byte"));
    }
    spec->precompiled_charsmap.push_back(static_cast<char>(bytes[i]));
  }
  return absl::OkStatus();
}

// What llama.cpp takes for granted of files that leave the ids out.
void SetDefaultIds(int vocab_size, TokenizerSpec* spec) {
  const auto set = [&](int32_t* id, int32_t value) {
    if (value < vocab_size) *id = value;
  };
  if (spec->model == "llama") {
    set(&spec->bos_id, 1);
    set(&spec->eos_id, 2);
    set(&spec->unk_id, 0);
  } else if (spec->model == "t5") {
    set(&spec->eos_id, 1);
    set(&spec->unk_id, 2);
    set(&spec->pad_id, 0);
  }
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
  MOEPOOL_RETURN_IF_ERROR(ReadCharsmap(metadata, &spec));
  SetDefaultIds(vocab_size, &spec);
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
  const bool llama = spec.model == "llama";
  const bool t5 = spec.model == "t5";
  const bool begins_with_bos =
      std::find(std::begin(kBeginWithBos), std::end(kBeginWithBos), spec.pre) != std::end(kBeginWithBos);
  const bool add_bos = llama || (!t5 && begins_with_bos);
  MOEPOOL_ASSIGN_OR_RETURN(spec.add_bos, metadata.BoolOr("tokenizer.ggml.add_bos_token", add_bos));
  MOEPOOL_ASSIGN_OR_RETURN(spec.add_eos, metadata.BoolOr("tokenizer.ggml.add_eos_token", t5));
  MOEPOOL_ASSIGN_OR_RETURN(spec.add_space_prefix, metadata.BoolOr("tokenizer.ggml.add_space_prefix", llama));
  MOEPOOL_ASSIGN_OR_RETURN(spec.remove_extra_whitespaces,
                           metadata.BoolOr("tokenizer.ggml.remove_extra_whitespaces", false));
  // Phi-3's tokens are declared with rstrip, which GGUF has no key for.
  MOEPOOL_ASSIGN_OR_RETURN(const std::string architecture, metadata.StringOr("general.architecture", ""));
  spec.strip_after_special = llama && (architecture == "phi3" || architecture == "phimoe");
  return spec;
}

}  // namespace moepool
