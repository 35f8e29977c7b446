// The normalisation rules that SentencePiece compiles into a vocabulary: a double-array trie (Aoe 1989, in
// the units of darts-clone) from byte strings to what replaces them, then the replacements, each ended by a
// zero.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moepool {

// Immutable and thread-safe.
class Charsmap {
 public:
  struct Match {
    size_t bytes;  // 0: no rule applies
    std::string_view replacement;
  };

  Charsmap() = default;  // no rules
  // InvalidArgument says what leads out of `compiled`, which comes from a file or over the network. Empty: no
  // rules.
  static absl::StatusOr<Charsmap> Parse(std::string_view compiled);

  // The longest rule that `text` begins with.
  Match Find(std::string_view text) const;

 private:
  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace moepool
