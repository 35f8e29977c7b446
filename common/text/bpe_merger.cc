#include "common/text/bpe_merger.h"

#include <algorithm>

namespace moepool {
namespace {

// Orders a heap whose top is the lowest rank, then the leftmost.
bool Later(const BpeMerger::Scratch::Candidate& a, const BpeMerger::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
}

}  // namespace

void BpeMerger::Add(int32_t left_id, int32_t right_id, uint32_t rank, int32_t merged_id) {
  merges_[Key(left_id, right_id)] = {rank, merged_id};
}

const BpeMerger::Merge* BpeMerger::Find(const Scratch& scratch, int32_t left) const {
  const Scratch::Symbol& symbol = scratch.symbols[left];
  if (symbol.next < 0) return nullptr;
  const auto it = merges_.find(Key(symbol.id, scratch.symbols[symbol.next].id));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeMerger::Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  symbols.clear();
  heap.clear();
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    const auto position = static_cast<int32_t>(symbols.size());
    if (id >= 0) symbols.push_back({id, position - 1, position + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  for (int32_t i = 0; i < static_cast<int32_t>(symbols.size()); ++i) {
    if (const Merge* merge = Find(*scratch, i)) heap.push_back({merge->rank, i, merge->merged_id});
  }
  std::make_heap(heap.begin(), heap.end(), Later);
  const auto offer = [&](int32_t left) {
    const Merge* merge = Find(*scratch, left);
    if (merge == nullptr) return;
    heap.push_back({merge->rank, left, merge->merged_id});
    std::push_heap(heap.begin(), heap.end(), Later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), Later);
    const Scratch::Candidate candidate = heap.back();
    heap.pop_back();
    // Candidates outlive the symbols that they were made of; one that still holds leads to the same token.
    Scratch::Symbol& left = symbols[candidate.left];
    if (left.id < 0) continue;
    const Merge* merge = Find(*scratch, candidate.left);
    if (merge == nullptr || merge->merged_id != candidate.merged_id) continue;
    Scratch::Symbol& right = symbols[left.next];
    left.id = candidate.merged_id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].prev = candidate.left;
    if (left.prev >= 0) offer(left.prev);
    offer(candidate.left);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace moepool
