// SentencePiece, the "llama" (BPE) and "t5" (unigram) models of GGUF files.
//
// Debian's libsentencepiece is not used: it exports over a thousand symbols of the old protobuf that it was
// built with, which would replace those of gRPC's protobuf in one process; it exits the process on conditions
// that a vocabulary can bring about; and its models are protobuf messages, which the core does without.
//
// Each stretch of text between matched tokens is encoded as a text of its own, a space in front where the
// vocabulary asks for one. So do llama.cpp, the first tokenizers of Llama, and mistral-common; SentencePiece
// itself puts no space after a user-defined token.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/sentencepiece_model.h"
#include "common/text/sentencepiece_normalizer.h"
#include "common/text/vocabulary_tokenizer.h"

namespace moepool {

class SentencePieceTokenizer final : public VocabularyTokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(TokenizerSpec spec);

  bool DropsFirstSpace() const override { return Spec().add_space_prefix; }

 private:
  explicit SentencePieceTokenizer(TokenizerSpec spec);
  absl::Status Load();
  absl::Status LoadByteTokens();
  absl::Status EncodePlain(std::string_view text, std::vector<int32_t>* ids) const override;

  std::unique_ptr<SentencePieceModel> model_;
  std::unique_ptr<SentencePieceNormalizer> normalizer_;
  std::array<int32_t, 256> byte_ids_;
  bool has_byte_tokens_ = false;
  int32_t unk_id_ = -1;  // where there are no byte tokens
};

}  // namespace moepool
