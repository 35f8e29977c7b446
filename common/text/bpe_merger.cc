#include "common/text/bpe_merger.h"

#include <algorithm>
#include <functional>

namespace moepool {
namespace {

// One word per candidate keeps a heap of millions of them twice as fast as a struct with a comparison of its
// own.
constexpr uint64_t Candidate(uint32_t rank, int32_t left) {
  return uint64_t{rank} << 32 | static_cast<uint32_t>(left);
}

}  // namespace

void BpeMerger::Add(int32_t left_id, int32_t right_id, uint32_t rank, int32_t merged_id) {
  merges_[Key(left_id, right_id)] = {rank, merged_id};
}

const BpeMerger::Rule* BpeMerger::Find(const Scratch& scratch, int32_t left) const {
  const Scratch::Symbol& symbol = scratch.symbols[left];
  if (symbol.next < 0) return nullptr;
  const auto it = merges_.find(Key(symbol.id, scratch.symbols[symbol.next].id));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeMerger::Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  scratch->symbols.clear();
  for (const char byte : word) {
    if (const int32_t id = byte_ids_[static_cast<uint8_t>(byte)]; id >= 0) scratch->Append(id);
  }
  if (scratch->symbols.empty()) return;
  Merge(scratch);
  for (int32_t i = 0; i >= 0; i = scratch->symbols[i].next) ids->push_back(scratch->symbols[i].id);
}

void BpeMerger::Merge(Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  heap.clear();
  for (int32_t i = 0; i < static_cast<int32_t>(symbols.size()); ++i) {
    if (const Rule* merge = Find(*scratch, i)) heap.push_back(Candidate(merge->rank, i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto offer = [&](int32_t left) {
    const Rule* merge = Find(*scratch, left);
    if (merge == nullptr) return;
    heap.push_back(Candidate(merge->rank, left));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    const auto position = static_cast<int32_t>(heap.back() & 0xFFFFFFFF);
    heap.pop_back();
    // Candidates outlive the symbols that they were made of. A pair of the same rank that took their place is
    // as good: it is next in order too.
    Scratch::Symbol& left = symbols[position];
    if (left.id < 0) continue;
    const Rule* merge = Find(*scratch, position);
    if (merge == nullptr || merge->rank != rank) continue;
    Scratch::Symbol& right = symbols[left.next];
    left.id = merge->merged_id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].prev = position;
    if (left.prev >= 0) offer(left.prev);
    offer(position);
  }
}

}  // namespace moepool
