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
#include "common/text/vocabulary_tokenizer.h"

namespace moepool {

class BpeTokenizer final : public VocabularyTokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(TokenizerSpec spec);

 private:
  BpeTokenizer(TokenizerSpec spec, std::unique_ptr<PreTokenizer> pre_tokenizer);
  absl::Status LoadMerges();
  absl::Status EncodePlain(std::string_view text, std::vector<int32_t>* ids) const override;
  absl::Status EncodeValid(std::string_view text, BpeMerger::Scratch* scratch,
                           std::vector<int32_t>* ids) const;

  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  absl::flat_hash_map<std::string_view, int32_t>
      words_;  // by bytes, of what merges may lead to; views into bytes()
  std::unique_ptr<BpeMerger> merger_;
};

}  // namespace moepool
