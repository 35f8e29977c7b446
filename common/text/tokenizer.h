// Ids from text and back. Encoding takes any bytes, invalid UTF-8 included, and loses none of them for which
// the vocabulary has tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/tokenizer_spec.h"

namespace moepool {

// Immutable and thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Where `parse_special`, control tokens written out in `text` become their ids; otherwise they are plain
  // text. User-defined (added) tokens are matched either way. Adds no BOS or EOS. ResourceExhausted where the
  // pre-tokenizer's match limits are hit.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool parse_special) const = 0;
  // The bytes of one token; empty for ids out of range, and for control tokens unless `special`.
  virtual std::string Bytes(int32_t id, bool special) const = 0;
  // Whether generation ends at this token (EOS, EOT and the like).
  virtual bool EndsGeneration(int32_t id) const = 0;
  // Whether decoding drops the space that the first token of a text begins with: encoding put it there.
  virtual bool DropsFirstSpace() const { return false; }
  virtual int32_t VocabSize() const = 0;
  virtual const TokenizerSpec& Spec() const = 0;
};

// InvalidArgument names an unknown model or pre-tokenizer, or what is malformed in the vocabulary.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(TokenizerSpec spec);

// Turns ids into text as they come, holding back bytes that do not yet end a UTF-8 character. What can never
// become one is replaced by U+FFFD, as Python's errors="replace" does.
class Detokenizer {
 public:
  // With `special`, control tokens appear as text. begins_text: the ids are not those of a text's
  // continuation, whose first space is its own. `tokenizer` outlives this.
  Detokenizer(const Tokenizer* tokenizer, bool special, bool begins_text = true)
      : tokenizer_(tokenizer), special_(special), drops_space_(begins_text && tokenizer->DropsFirstSpace()) {}
  // Text that became certain with this id; valid UTF-8.
  std::string Push(int32_t id) { return Push(id, special_); }
  // The same with another choice about control tokens.
  std::string Push(int32_t id, bool special);
  // What is still held, replaced where incomplete.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool special_;
  bool drops_space_;  // until the first byte
  std::string pending_;
};

}  // namespace moepool
