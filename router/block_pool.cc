// See block_pool.h.
#include "router/block_pool.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace moepool {
namespace {

constexpr PrefixNode kLastRoot = 255;  // 1 to 255; 0 is no node

BlockKey Key(PrefixNode parent, std::span<const int32_t> ids) {
  MOEPOOL_CHECK(ids.size() == kKvBlockTokens);
  BlockKey key;
  key.parent = parent;
  std::copy(ids.begin(), ids.end(), key.ids.begin());
  return key;
}

}  // namespace

BlockPool::BlockPool(int blocks)
    : blocks_(static_cast<size_t>(blocks)),
      published_(0, Hash{&blocks_}, Equal{&blocks_}),
      last_node_(kLastRoot) {
  for (int32_t block = blocks; block-- > 0;) free_.push_back(block);
}

ChainEnd BlockPool::Root(int number) {
  MOEPOOL_CHECK(number >= 0 && static_cast<PrefixNode>(number) < kLastRoot);
  return {.node = 1 + static_cast<PrefixNode>(number)};
}

int32_t BlockPool::Find(PrefixNode parent, std::span<const int32_t> ids) const {
  const auto it = published_.find(Key(parent, ids));
  return it == published_.end() ? -1 : *it;
}

ChainEnd BlockPool::EndAt(int32_t published) const {
  MOEPOOL_CHECK(At(published).node != 0);
  return {At(published).node, published};
}

int32_t BlockPool::Take() {
  if (free_.empty()) {
    MOEPOOL_CHECK(!evictable_.empty());
    const int32_t victim = evictable_.begin()->second;
    LeaveIdle(victim);
    Unpublish(victim);
    free_.push_back(victim);
    ++evictions_;
  }
  const int32_t block = free_.back();
  free_.pop_back();
  MOEPOOL_CHECK(At(block).holders == 0 && At(block).node == 0);
  At(block).holders = 1;
  return block;
}

void BlockPool::Hold(int32_t block) {
  MOEPOOL_CHECK(At(block).node != 0);
  if (At(block).holders == 0) LeaveIdle(block);
  ++At(block).holders;
}

void BlockPool::Release(int32_t block, bool keep) {
  Block& b = At(block);
  MOEPOOL_CHECK(b.holders > 0);
  if (--b.holders > 0) return;
  if (keep && b.node != 0 && (b.key.parent <= kLastRoot || ParentOf(b) >= 0)) {
    EnterIdle(block);
    return;
  }
  if (b.node != 0) Unpublish(block);
  free_.push_back(block);
}

void BlockPool::Publish(int32_t block, ChainEnd parent, std::span<const int32_t> ids) {
  Block& b = At(block);
  MOEPOOL_CHECK(b.holders == 1 && b.node == 0);
  b.key = Key(parent.node, ids);
  b.parent_block = parent.block;
  b.idle_children = 0;
  b.node = ++last_node_;
  MOEPOOL_CHECK(published_.insert(block).second);
}

void BlockPool::Touch(int32_t block) {
  if (!idle(block)) return;
  LeaveIdle(block);
  EnterIdle(block);
}

bool BlockPool::Reachable(int32_t block) const {
  while (At(block).key.parent > kLastRoot) {
    block = ParentOf(At(block));
    if (block < 0) return false;
  }
  return true;
}

int32_t BlockPool::ParentOf(const Block& block) const {
  return block.parent_block >= 0 && At(block.parent_block).node == block.key.parent ? block.parent_block : -1;
}

void BlockPool::EnterIdle(int32_t block) {
  Block& b = At(block);
  b.idle_since = ++events_;
  ++idle_;
  if (b.idle_children == 0) evictable_.insert({b.idle_since, block});
  const int32_t parent = ParentOf(b);
  if (parent >= 0 && At(parent).idle_children++ == 0 && idle(parent)) {
    evictable_.erase({At(parent).idle_since, parent});
  }
}

void BlockPool::LeaveIdle(int32_t block) {
  Block& b = At(block);
  --idle_;
  if (b.idle_children == 0) evictable_.erase({b.idle_since, block});
  const int32_t parent = ParentOf(b);
  if (parent >= 0 && --At(parent).idle_children == 0 && idle(parent)) {
    evictable_.insert({At(parent).idle_since, parent});
  }
}

void BlockPool::Unpublish(int32_t block) {
  published_.erase(block);
  At(block).node = 0;
}

void BlockPool::CheckInvariants() const {
  std::vector<int> seen_free(blocks_.size(), 0);
  for (const int32_t block : free_) {
    MOEPOOL_CHECK(++seen_free[static_cast<size_t>(block)] == 1);
    MOEPOOL_CHECK(At(block).holders == 0 && At(block).node == 0);
  }
  std::vector<int> idle_children(blocks_.size(), 0);
  int idle_blocks = 0;
  size_t published = 0;
  for (int32_t block = 0; block < blocks(); ++block) {
    const Block& b = At(block);
    MOEPOOL_CHECK(b.holders >= 0);
    MOEPOOL_CHECK((b.holders == 0 && b.node == 0) == (seen_free[static_cast<size_t>(block)] == 1));
    if (b.node == 0) continue;
    ++published;
    const auto it = published_.find(b.key);
    MOEPOOL_CHECK(it != published_.end() && *it == block);
    if (!idle(block)) continue;
    ++idle_blocks;
    if (const int32_t parent = ParentOf(b); parent >= 0) ++idle_children[static_cast<size_t>(parent)];
  }
  MOEPOOL_CHECK(published == published_.size() && idle_blocks == idle_);
  size_t evictable = 0;
  for (int32_t block = 0; block < blocks(); ++block) {
    const Block& b = At(block);
    if (b.node == 0) continue;
    MOEPOOL_CHECK(b.idle_children == idle_children[static_cast<size_t>(block)]);
    const bool leaf = idle(block) && b.idle_children == 0;
    MOEPOOL_CHECK(leaf == evictable_.contains({b.idle_since, block}));
    evictable += leaf ? 1 : 0;
  }
  MOEPOOL_CHECK(evictable == evictable_.size());
}

}  // namespace moepool
