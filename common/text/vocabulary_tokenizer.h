// What tokenizers of any model have in common: tokens that are matched in the text itself before the rest is
// encoded, the bytes that each token stands for, and the tokens that end a generation.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/text/token_trie.h"
#include "common/text/tokenizer.h"

namespace moepool {

class VocabularyTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool parse_special) const final;
  std::string Bytes(int32_t id, bool special) const final;
  bool EndsGeneration(int32_t id) const final;
  int32_t VocabSize() const final { return static_cast<int32_t>(spec_.tokens.size()); }
  const TokenizerSpec& Spec() const final { return spec_; }

 protected:
  // `spec` passed CheckTokenizerSpec.
  explicit VocabularyTokenizer(TokenizerSpec spec);

  TokenType Type(int32_t id) const { return spec_.types.empty() ? TokenType::kNormal : spec_.types[id]; }
  // Whether the token is made from text, not matched in it.
  bool IsPiece(int32_t id) const {
    return Type(id) == TokenType::kNormal || Type(id) == TokenType::kUndefined ||
           Type(id) == TokenType::kByte;
  }
  // Tokens matched in the text stand for their spelling unless set, the others for nothing.
  void SetBytes(int32_t id, std::string bytes) { bytes_[id] = std::move(bytes); }
  const std::vector<std::string>& bytes() const { return bytes_; }

 private:
  // Appends the ids of a stretch of text between matched tokens; not empty, any bytes.
  virtual absl::Status EncodePlain(std::string_view text, std::vector<int32_t>* ids) const = 0;

  TokenizerSpec spec_;
  std::vector<std::string> bytes_;      // by id
  TokenTrie added_tokens_;              // user-defined
  TokenTrie special_tokens_;            // user-defined and control
  std::vector<bool> ends_generation_;   // by id
  std::vector<bool> strips_following_;  // by id: white space that follows in the text is dropped
};

}  // namespace moepool
