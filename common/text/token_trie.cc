#include "common/text/token_trie.h"

namespace moepool {

void TokenTrie::Add(std::string_view spelling, int32_t id) {
  begins_[static_cast<uint8_t>(spelling[0])] = true;
  uint32_t node = 0;
  for (const char byte : spelling) {
    const auto [it, is_new] = children_.try_emplace(Key(node, byte), static_cast<uint32_t>(ids_.size()));
    node = it->second;
    if (is_new) ids_.push_back(-1);
  }
  if (ids_[node] < 0) ids_[node] = id;
}

TokenTrie::Match TokenTrie::Find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!begins_[static_cast<uint8_t>(text[begin])]) continue;
    Match longest = {begin, begin, -1};
    VisitAt(text, begin, [&](size_t end, int32_t id) { longest = {begin, end, id}; });
    if (longest.id >= 0) return longest;
  }
  return {text.size(), text.size(), -1};
}

}  // namespace moepool
