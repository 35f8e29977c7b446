#include "router/block_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace moepool {
namespace {

std::vector<int32_t> Ids(int32_t value) { return std::vector<int32_t>(kKvBlockTokens, value); }

// Takes a block and publishes it under `parent`.
int32_t Add(BlockPool* pool, ChainEnd parent, int32_t value) {
  const int32_t block = pool->Take();
  pool->Publish(block, parent, Ids(value));
  pool->CheckInvariants();
  return block;
}

TEST(BlockPoolTest, FindsUnderItsParentAlone) {
  BlockPool pool(4);
  const ChainEnd root = BlockPool::Root(0);
  const int32_t a = Add(&pool, root, 1);
  const int32_t b = Add(&pool, pool.EndAt(a), 2);
  EXPECT_EQ(pool.Find(root.node, Ids(1)), a);
  EXPECT_EQ(pool.Find(BlockPool::Root(1).node, Ids(1)), -1);
  EXPECT_EQ(pool.Find(root.node, Ids(2)), -1);
  EXPECT_EQ(pool.Find(pool.EndAt(a).node, Ids(2)), b);
}

TEST(BlockPoolTest, ABlockIsIdleOnceItsLastHolderHasGone) {
  BlockPool pool(2);
  const int32_t a = Add(&pool, BlockPool::Root(0), 1);
  pool.Hold(a);
  EXPECT_EQ(pool.holders(a), 2);
  pool.Release(a, true);
  EXPECT_FALSE(pool.idle(a));
  EXPECT_EQ(pool.available(), 1);
  pool.Release(a, true);
  EXPECT_TRUE(pool.idle(a));
  EXPECT_EQ(pool.available(), 2);
  pool.Hold(a);
  EXPECT_EQ(pool.available(), 1);
  pool.Release(a, false);
  EXPECT_EQ(pool.Find(BlockPool::Root(0).node, Ids(1)), -1);
  pool.CheckInvariants();
}

TEST(BlockPoolTest, EvictsTheLeafThatFellIdleLongestAgo) {
  BlockPool pool(4);
  const ChainEnd root = BlockPool::Root(0);
  const int32_t a = Add(&pool, root, 1);
  const int32_t b = Add(&pool, pool.EndAt(a), 2);
  const int32_t c = Add(&pool, pool.EndAt(a), 3);
  const int32_t d = Add(&pool, root, 4);
  // The parent fell idle first, and still goes after its children.
  for (const int32_t block : {a, b, d, c}) pool.Release(block, true);
  pool.CheckInvariants();
  const auto take = [&] {
    const int32_t block = pool.Take();
    pool.CheckInvariants();
    return block;
  };
  EXPECT_EQ(take(), b);
  pool.Touch(d);
  EXPECT_EQ(take(), c);
  EXPECT_EQ(take(), a);
  EXPECT_EQ(take(), d);
  EXPECT_EQ(pool.evictions(), 4u);
  EXPECT_EQ(pool.available(), 0);
}

TEST(BlockPoolTest, AHeldChildDoesNotKeepItsParent) {
  BlockPool pool(2);
  const ChainEnd root = BlockPool::Root(0);
  const int32_t a = Add(&pool, root, 1);
  const PrefixNode first = pool.EndAt(a).node;
  const int32_t b = Add(&pool, pool.EndAt(a), 2);
  pool.Release(a, true);
  EXPECT_TRUE(pool.Reachable(b));
  EXPECT_EQ(pool.Take(), a);
  EXPECT_FALSE(pool.Reachable(b));
  // The same content again has a node of its own, under which the old child is not found.
  pool.Publish(a, root, Ids(1));
  EXPECT_NE(pool.EndAt(a).node, first);
  EXPECT_EQ(pool.Find(pool.EndAt(a).node, Ids(2)), -1);
  EXPECT_FALSE(pool.Reachable(b));
  pool.CheckInvariants();
  pool.Release(b, true);  // can't be found any more, so it is not kept
  EXPECT_FALSE(pool.idle(b));
  EXPECT_EQ(pool.available(), 1);
  pool.CheckInvariants();
}

using BlockPoolDeathTest = ::testing::Test;

TEST(BlockPoolDeathTest, MisuseEndsTheProcess) {
  BlockPool pool(2);
  const int32_t a = Add(&pool, BlockPool::Root(0), 1);
  EXPECT_DEATH(pool.Publish(a, BlockPool::Root(0), Ids(2)), "check failed");
  pool.Hold(a);
  pool.Release(a, true);
  pool.Release(a, true);
  EXPECT_DEATH(pool.Release(a, true), "holders > 0");
  EXPECT_DEATH(pool.Hold(1 - a), "check failed");
  pool.Take();
  pool.Take();
  EXPECT_DEATH(pool.Take(), "check failed");
}

}  // namespace
}  // namespace moepool
