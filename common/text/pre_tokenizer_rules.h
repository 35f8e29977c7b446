// The rules that `tokenizer.ggml.pre` names, as PCRE2 patterns.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moepool {

struct PreTokenizerRule {
  // Each is applied to what the one before it made: what it matches and what lies between become pieces.
  std::vector<std::string> patterns;
  bool composes;           // text is brought to Unicode's composed form (NFC) first
  bool takes_whole_words;  // a piece that is itself a token is taken whole, even where merges would not lead
                           // to it
};

// Nothing has no patterns: the name is not known.
PreTokenizerRule FindPreTokenizerRule(std::string_view name);
// For people: one name of each rule.
std::string KnownPreTokenizers();

}  // namespace moepool
