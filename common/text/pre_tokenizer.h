// Cuts text into the pieces ("words") within which byte-pair merges happen. The rules are those that the
// models were trained with: a regular expression for each name that `tokenizer.ggml.pre` may carry.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moepool {

// Immutable and thread-safe.
class PreTokenizer {
 public:
  // InvalidArgument names an unknown `name` and lists the known ones.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Make(std::string_view name);
  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // Appends the pieces of `text`, which is valid UTF-8; together they are all of it.
  // ResourceExhausted where the match limits are hit.
  absl::Status Split(std::string_view text, std::vector<std::string_view>* pieces) const;

  // Whether text is brought to Unicode's composed form (NFC) first.
  bool composes() const { return composes_; }
  // Whether a piece that is itself a token is taken whole, even where merges would not lead to it.
  bool takes_whole_words() const { return takes_whole_words_; }

 private:
  struct Regex;
  PreTokenizer(std::unique_ptr<Regex> regex, bool composes, bool takes_whole_words);

  std::unique_ptr<Regex> regex_;
  bool composes_;
  bool takes_whole_words_;
};

}  // namespace moepool
