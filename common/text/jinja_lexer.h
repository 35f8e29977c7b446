// Tokens of a Jinja template under trim_blocks and lstrip_blocks: white space control and raw blocks are
// resolved here, so the parser sees data, and the tokens between delimiters.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moepool::jinja {

enum class TokenKind {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInt,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  std::string
      text;  // data, name, the string's value, the number's digits without underscores, or the operator
  int line;
};

// Ends with one kEnd token. InvalidArgument gives line and cause.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace moepool::jinja
