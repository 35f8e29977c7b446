// A byte-level vocabulary small enough to follow by hand, for tests.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/model/tokenizer_spec.h"
#include "common/text/byte_alphabet.h"

namespace moepool {

// Ids 0 to 255 are the bytes. Then come the merges of `merges`, each making a token, unless it exists.
inline TokenizerSpec SmallVocabulary(std::string_view pre, std::vector<std::string> merges = {}) {
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre = pre;
  const auto add = [&](std::string token, TokenType type) {
    for (const std::string& known : spec.tokens) {
      if (known == token) return;
    }
    spec.tokens.push_back(std::move(token));
    spec.types.push_back(type);
  };
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    add(SpellingFromBytes({&c, 1}), TokenType::kNormal);
  }
  for (const std::string& merge : merges) {
    std::string token = merge;
    token.erase(token.find(' '), 1);
    add(std::move(token), TokenType::kNormal);
  }
  spec.merges = std::move(merges);
  return spec;
}

inline int32_t AddToken(TokenizerSpec* spec, std::string token, TokenType type) {
  spec->tokens.push_back(std::move(token));
  spec->types.push_back(type);
  return static_cast<int32_t>(spec->tokens.size()) - 1;
}

}  // namespace moepool
