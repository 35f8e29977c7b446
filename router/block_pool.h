// Which block of the KV cache holds what, and for whom. Bookkeeping alone: blocks are numbers here, and
// nothing is known of memory, sequences or windows.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_set.h"
#include "router/block_key.h"

namespace moepool {

// Where a chain of published blocks ends: what the next block hangs under.
struct ChainEnd {
  PrefixNode node = 0;
  int32_t block = -1;  // -1: a root
};

// Each block is in exactly one of three states:
//   free   nobody holds it and nobody can find it;
//   held   by one holder or several;
//   idle   published and held by nobody: found by the next sequence that begins alike, or evicted when a
//   block
//          is needed and none is free.
// Only full blocks are published, and nobody writes into a published block: a writer takes a block of its
// own.
//
// Published blocks form trees: a block hangs under the one that holds the 16 positions before its own, the
// first of a chain under a root. (node of the parent, 16 ids) says all that a block's content follows from,
// since a node is never given twice; look-ups compare both, so that a collision of hashes costs time and
// never a wrong token.
//
// Evicted is, of the idle blocks that have no idle child, the one that fell idle longest ago: a chain goes
// from its end. A block may lose its parent while it is held (a sliding window leaves parents behind); it
// can't be found any more then, and is free once nobody holds it.
//
// Owned by one thread. Misuse (a block released twice, published while shared) is a failed check.
class BlockPool {
 public:
  explicit BlockPool(int blocks);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // Roots differ where the same ids at the same positions have other keys and values. 0 <= number < 255.
  static ChainEnd Root(int number);

  // The block published under `parent` with these 16 ids, or -1.
  int32_t Find(PrefixNode parent, std::span<const int32_t> ids) const;
  ChainEnd EndAt(int32_t published) const;

  // A block that nobody held, for one holder. available() > 0.
  int32_t Take();
  // One more holder of a published block.
  void Hold(int32_t block);
  // One holder less. A published block that can still be found falls idle with its last holder where `keep`
  // is set; any other is free.
  void Release(int32_t block, bool keep);
  // The block's one holder has filled it and will not write to it again. Find() would not find its like.
  void Publish(int32_t block, ChainEnd parent, std::span<const int32_t> ids);
  // An idle block counts as used now.
  void Touch(int32_t block);
  // Every block between this one and its root is published still.
  bool Reachable(int32_t block) const;

  int available() const { return static_cast<int>(free_.size()) + idle_; }
  int idle() const { return idle_; }
  bool idle(int32_t block) const { return At(block).holders == 0 && At(block).node != 0; }
  int holders(int32_t block) const { return At(block).holders; }
  int blocks() const { return static_cast<int>(blocks_.size()); }
  uint64_t evictions() const { return evictions_; }

  // Recounts everything. For tests: O(blocks).
  void CheckInvariants() const;

 private:
  struct Block {
    int32_t holders = 0;
    int32_t idle_children = 0;
    int32_t parent_block = -1;  // holds key.parent as long as that block's node says so
    PrefixNode node = 0;        // 0: not published
    uint64_t idle_since = 0;    // in events
    BlockKey key;
  };
  struct Hash {
    using is_transparent = void;
    const std::vector<Block>* blocks;
    size_t operator()(int32_t block) const { return HashBlockKey((*blocks)[static_cast<size_t>(block)].key); }
    size_t operator()(const BlockKey& key) const { return HashBlockKey(key); }
  };
  struct Equal {
    using is_transparent = void;
    const std::vector<Block>* blocks;
    const BlockKey& Key(int32_t block) const { return (*blocks)[static_cast<size_t>(block)].key; }
    static const BlockKey& Key(const BlockKey& key) { return key; }
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      return SameBlockKey(Key(a), Key(b));
    }
  };

  Block& At(int32_t block) { return blocks_[static_cast<size_t>(block)]; }
  const Block& At(int32_t block) const { return blocks_[static_cast<size_t>(block)]; }
  // -1: under a root, or the parent is published no more.
  int32_t ParentOf(const Block& block) const;
  void EnterIdle(int32_t block);
  void LeaveIdle(int32_t block);
  void Unpublish(int32_t block);

  std::vector<Block> blocks_;
  std::vector<int32_t> free_;                                // a stack
  absl::flat_hash_set<int32_t, Hash, Equal> published_;      // by key
  absl::btree_set<std::pair<uint64_t, int32_t>> evictable_;  // idle, no idle child; (idle_since, block)
  int idle_ = 0;
  PrefixNode last_node_;
  uint64_t events_ = 0;
  uint64_t evictions_ = 0;
};

}  // namespace moepool
