// Byte-level BPE, the "gpt2" model of GGUF files.
//
// What departs from the text's own bytes, each as in the reference: rules that compose (qwen2) encode the NFC
// of the text; bytes for which a vocabulary has no token are left out (SmolLM2 has none for 21: those that
// UTF-8 never holds, the first of planes 4 to 11, and six control characters).
// A byte that is not part of valid UTF-8 is a piece of its own, and what stands before it is cut as if the
// text ended there.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/text/bpe_merger.h"
#include "common/text/pre_tokenizer.h"
#include "common/text/token_trie.h"
#include "common/text/tokenizer.h"

namespace moepool {

class BpeTokenizer final : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(TokenizerSpec spec);

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool parse_special) const override;
  std::string Bytes(int32_t id, bool special) const override;
  bool EndsGeneration(int32_t id) const override;
  int32_t VocabSize() const override { return static_cast<int32_t>(spec_.tokens.size()); }
  const TokenizerSpec& Spec() const override { return spec_; }

 private:
  // Of one call to Encode.
  struct Work {
    std::vector<std::string_view> pieces;
    BpeMerger::Scratch scratch;
    std::vector<int32_t> ids;
  };

  BpeTokenizer(TokenizerSpec spec, std::unique_ptr<PreTokenizer> pre_tokenizer);
  absl::Status LoadMerges();
  void LoadTokens();
  TokenType Type(int32_t id) const { return spec_.types.empty() ? TokenType::kNormal : spec_.types[id]; }
  // Text without matched tokens.
  absl::Status EncodePlain(std::string_view text, Work* work) const;
  absl::Status EncodeValid(std::string_view text, Work* work) const;

  TokenizerSpec spec_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::vector<std::string> bytes_;  // by id
  absl::flat_hash_map<std::string_view, int32_t>
      words_;  // by bytes, of what merges may lead to; views into bytes_
  std::unique_ptr<BpeMerger> merger_;
  TokenTrie added_tokens_;             // user-defined
  TokenTrie special_tokens_;           // user-defined and control
  std::vector<bool> ends_generation_;  // by id
};

}  // namespace moepool
