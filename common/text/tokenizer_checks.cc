#include "common/text/tokenizer_checks.h"

#include <limits>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/utf8.h"

namespace moepool {
namespace {

// Of a token that is looked for at every position of a text.
constexpr size_t kMaxMatchedBytes = 512;

}  // namespace

absl::Status CheckTokenizerSpec(const TokenizerSpec& spec) {
  const size_t count = spec.tokens.size();
  if (count == 0) return absl::InvalidArgumentError("tokenizer: no tokens");
  if (count > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: ", count, " tokens, more than an id can count"));
  }
  if (!spec.types.empty() && spec.types.size() != count) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: ", spec.types.size(), " token types for ", count, " tokens"));
  }
  if (!spec.scores.empty() && spec.scores.size() != count) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: ", spec.scores.size(), " token scores for ", count, " tokens"));
  }
  for (size_t id = 0; id < spec.types.size(); ++id) {
    if (spec.types[id] < TokenType::kUndefined || spec.types[id] > TokenType::kByte) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tokenizer: token ", id, " has type ", static_cast<int32_t>(spec.types[id]), ", known are 0 to 6"));
    }
  }
  const std::pair<const char*, int32_t> named[] = {{"bos", spec.bos_id},
                                                   {"eos", spec.eos_id},
                                                   {"eot", spec.eot_id},
                                                   {"unk", spec.unk_id},
                                                   {"pad", spec.pad_id}};
  for (const auto& [name, id] : named) {
    if (id < -1 || id >= static_cast<int64_t>(count)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: ", name, " id ", id, " is outside a vocabulary of ", count));
    }
  }
  absl::flat_hash_map<std::string_view, size_t> seen;
  seen.reserve(count);
  for (size_t id = 0; id < count; ++id) {
    const std::string& token = spec.tokens[id];
    if (!IsUtf8(token)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: token ", id, " is not UTF-8: \"", absl::CHexEscape(token), "\""));
    }
    if (token.empty()) continue;
    const TokenType type = spec.types.empty() ? TokenType::kNormal : spec.types[id];
    const bool matched =
        type == TokenType::kControl || type == TokenType::kUnknown || type == TokenType::kUserDefined;
    if (matched && token.size() > kMaxMatchedBytes) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: token ", id, " has ", token.size(),
                                                     " bytes, at most ", kMaxMatchedBytes,
                                                     " can be looked for in texts"));
    }
    if (const auto [it, is_new] = seen.emplace(token, id); !is_new) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: tokens ", it->second, " and ", id, " are both \"", token, "\""));
    }
  }
  return absl::OkStatus();
}

absl::flat_hash_map<std::string_view, int32_t> IdsBySpelling(const TokenizerSpec& spec) {
  absl::flat_hash_map<std::string_view, int32_t> ids;
  ids.reserve(spec.tokens.size());
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    if (!spec.tokens[id].empty()) ids.emplace(spec.tokens[id], static_cast<int32_t>(id));
  }
  return ids;
}

}  // namespace moepool
