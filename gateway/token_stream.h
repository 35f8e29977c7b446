// Ids to text for one sequence: detokenized as they come, ended before the first stop string.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/tokenizer.h"

namespace moepool {

// Invariant: what was handed out and what is held, put together, is the text of the ids pushed so far up to
// the first stop string; no byte of a stop string is ever handed out. Ids that end generation have no text.
// Not thread-safe.
class TokenStream {
 public:
  // `stops` are not empty strings; one that is complete with the first min_tokens ids is text like any other.
  // begins_text: see Detokenizer. marker_ids: control tokens that are text all the same. `tokenizer` outlives
  // this.
  TokenStream(const Tokenizer* tokenizer, std::vector<std::string> stops, int32_t min_tokens = 0,
              bool begins_text = true, std::vector<int32_t> marker_ids = {});

  struct Step {
    std::string text;  // became certain: can no longer be part of a stop string
    size_t used = 0;   // ids taken: all, or those up to the one that completed a stop string
  };
  // Ids after a stop string are not taken, nor any once stopped().
  Step Push(std::span<const int32_t> ids);
  // What is still held, at the end of a sequence; empty once stopped().
  std::string Finish();
  bool stopped() const { return stopped_; }

 private:
  // Moves text that cannot be part of a stop string from held_ to the result.
  std::string Release(std::string_view added);

  const Tokenizer* const tokenizer_;
  Detokenizer detokenizer_;
  const std::vector<std::string> stops_;
  const std::vector<int32_t> marker_ids_;
  const int32_t min_tokens_;
  size_t longest_stop_ = 0;
  int32_t taken_ = 0;  // ids
  std::string held_;   // a proper prefix of some stop string, or empty
  size_t exempt_ =
      0;  // leading bytes of held_ from the first min_tokens ids: none of them ends a stop string
  bool stopped_ = false;
};

}  // namespace moepool
