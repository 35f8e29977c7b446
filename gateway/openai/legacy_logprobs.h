// choices[].logprobs of /v1/completions: parallel lists over the tokens, and where each begins in the text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gateway/inference.h"

namespace moepool {

// Kept as JSON text: a tree would take ten times the memory. Not thread-safe.
class LegacyLogprobs {
 public:
  void Add(const std::vector<TokenLogprobEntries>& logprobs);
  bool empty() const { return tokens_.empty(); }
  size_t bytes() const {
    return tokens_.size() + token_logprobs_.size() + top_logprobs_.size() + offsets_.size();
  }
  // {"tokens", "token_logprobs", "top_logprobs", "text_offset"} of what was added since the last Take.
  std::string Take();

 private:
  std::string tokens_;
  std::string token_logprobs_;
  std::string top_logprobs_;
  std::string offsets_;
  int64_t offset_ = 0;  // of the next token, in code points
};

}  // namespace moepool
