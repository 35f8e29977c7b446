// Tokens by spelling, to be found where they begin in a text: those matched in the text itself, before it is
// cut into words, and the pieces of a unigram model.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace moepool {

// Immutable after the last Add, and then thread-safe.
class TokenTrie {
 public:
  struct Match {
    size_t begin;
    size_t end;
    int32_t id;  // -1: none; begin and end are then the end of the text
  };

  TokenTrie() : ids_(1, -1) {}
  // `spelling` is not empty. Of two tokens spelled alike the first counts.
  void Add(std::string_view spelling, int32_t id);
  // The first match at or after `from`, the longest there. O(n · longest spelling) at worst; bytes that begin
  // no token cost one look.
  Match Find(std::string_view text, size_t from) const;

  // Calls visit(end, id) for each token that `text` holds at `begin`, the shortest first.
  template <typename Visit>
  void VisitAt(std::string_view text, size_t begin, const Visit& visit) const {
    if (!begins_[static_cast<uint8_t>(text[begin])]) return;
    uint32_t node = 0;
    for (size_t i = begin; i < text.size(); ++i) {
      const auto it = children_.find(Key(node, text[i]));
      if (it == children_.end()) return;
      node = it->second;
      if (ids_[node] >= 0) visit(i + 1, ids_[node]);
    }
  }

 private:
  static uint64_t Key(uint32_t node, char byte) { return uint64_t{node} << 8 | static_cast<uint8_t>(byte); }

  std::array<bool, 256> begins_{};
  std::vector<int32_t> ids_;  // by node: the token that ends there, or -1
  absl::flat_hash_map<uint64_t, uint32_t> children_;
};

}  // namespace moepool
