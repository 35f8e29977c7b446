// Byte-pair merging of one word. The merge of lowest rank goes first, the leftmost of equal rank, until none
// applies. Byte-level models merge from bytes on, SentencePiece's from characters.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace moepool {

// Immutable after the last Add, and then thread-safe as long as each thread brings its own Scratch.
class BpeMerger {
 public:
  // Kept between words to spare allocations.
  struct Scratch {
    struct Symbol {
      int32_t id;    // -1: merged into its left neighbour
      int32_t prev;  // -1: none
      int32_t next;  // -1: none
    };
    // Ids that no merge names are left as they are.
    void Append(int32_t id) {
      const auto position = static_cast<int32_t>(symbols.size());
      if (position > 0) symbols.back().next = position;
      symbols.push_back({id, position - 1, -1});
    }
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;  // rank << 32 | position of the left symbol; the least on top
  };

  // byte_ids: the token of each single byte, or -1 where there is none.
  explicit BpeMerger(const std::array<int32_t, 256>& byte_ids) : byte_ids_(byte_ids) {}
  // For Merge alone.
  BpeMerger() { byte_ids_.fill(-1); }
  // Of two merges of the same pair the last one counts, as in the reference.
  void Add(int32_t left_id, int32_t right_id, uint32_t rank, int32_t merged_id);

  // Appends the ids of `word` (under 2 GiB), in O(n log n). Bytes without a token are left out.
  void Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;

  // Merges scratch->symbols, under 2^31 of them, none below 0; the chain of `next` from the first one leads
  // through what remains. Merges may share a rank: the leftmost goes first whatever their pairs.
  void Merge(Scratch* scratch) const;

 private:
  struct Rule {
    uint32_t rank;
    int32_t merged_id;
  };
  static uint64_t Key(int32_t left_id, int32_t right_id) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left_id)) << 32 | static_cast<uint32_t>(right_id);
  }
  const Rule* Find(const Scratch& scratch, int32_t left) const;

  std::array<int32_t, 256> byte_ids_;
  absl::flat_hash_map<uint64_t, Rule> merges_;
};

}  // namespace moepool
