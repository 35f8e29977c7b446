// Cuts text into the pieces ("words") within which byte-pair merges happen. The rules are those that the
// models were trained with: regular expressions for each name that `tokenizer.ggml.pre` may carry.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/text/pre_tokenizer_rules.h"

namespace moepool {

// Immutable and thread-safe.
class PreTokenizer {
 public:
  // An empty name is "default". InvalidArgument names an unknown `name` and lists the known ones.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Make(std::string_view name);
  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // Appends the pieces of `text`, which is valid UTF-8; together they are all of it.
  // ResourceExhausted where the match limits are hit.
  absl::Status Split(std::string_view text, std::vector<std::string_view>* pieces) const;

  bool composes() const { return rule_.composes; }
  bool takes_whole_words() const { return rule_.takes_whole_words; }

 private:
  class Regex;
  explicit PreTokenizer(PreTokenizerRule rule);

  PreTokenizerRule rule_;
  std::vector<std::unique_ptr<Regex>> regexes_;  // by pattern
};

}  // namespace moepool
