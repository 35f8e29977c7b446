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
// the first stop string; no byte of a stop string is ever handed out. Not thread-safe.
class TokenStream {
 public:
  // `stops` are not empty strings. `tokenizer` outlives this.
  TokenStream(const Tokenizer* tokenizer, std::vector<std::string> stops);

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

  Detokenizer detokenizer_;
  const std::vector<std::string> stops_;
  size_t longest_stop_ = 0;
  std::string held_;  // a proper prefix of some stop string, or empty
  bool stopped_ = false;
};

}  // namespace moepool
