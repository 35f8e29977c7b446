// What SentencePiece does to a text before it is cut into pieces.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/model/tokenizer_spec.h"
#include "common/text/charsmap.h"

namespace moepool {

// Immutable and thread-safe.
class SentencePieceNormalizer {
 public:
  // keeps_invalid: bytes that are not UTF-8 stay, for a vocabulary that has tokens for them; otherwise each
  // becomes U+FFFD, as in the reference.
  static absl::StatusOr<SentencePieceNormalizer> Make(const TokenizerSpec& spec, bool keeps_invalid);

  // Spaces as U+2581. ResourceExhausted where the rules make far more of the text than such rules do.
  absl::StatusOr<std::string> Normalize(std::string_view text) const;

 private:
  struct Part {
    size_t bytes;           // of the text
    std::string_view text;  // what they become
  };

  SentencePieceNormalizer() = default;
  Part First(std::string_view text) const;

  Charsmap charsmap_;
  bool adds_prefix_ = false;
  bool removes_extra_spaces_ = false;
  bool keeps_invalid_ = false;
};

}  // namespace moepool
