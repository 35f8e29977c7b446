#include "router/kv_cache.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/router/fake_backend.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig Config(int layers = 3, int kv_heads = 2, int head_dim = 6) {
  ModelConfig config;
  config.layers = layers;
  config.kv_heads = kv_heads;
  config.head_dim = head_dim;
  return config;
}

std::unique_ptr<KvCache> Make(FakeBackend* backend, int blocks, int window = 0, bool prefix_cache = true) {
  ModelConfig config = Config();
  config.sliding_window = window;
  auto cache = KvCache::Create(backend, config, {KvType::kF16, blocks, prefix_cache});
  EXPECT_TRUE(cache.ok()) << cache.status();
  return cache.ok() ? *std::move(cache) : nullptr;
}

std::vector<int32_t> Ids(int count, int first = 0) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

// Opens, computes and commits `ids`; returns what was cached.
int Compute(KvCache* cache, uint64_t sequence, const std::vector<int32_t>& ids,
            RopeSet rope = RopeSet::kShort) {
  const int cached = cache->Open(SequenceId(sequence), rope, std::span(ids).first(ids.size() - 1)).tokens;
  EXPECT_TRUE(cache->Grow(SequenceId(sequence), static_cast<int>(ids.size())).ok());
  cache->Commit(SequenceId(sequence), ids);
  cache->CheckInvariants();
  return cached;
}

std::vector<int32_t> Table(const KvCache& cache, uint64_t sequence) {
  const auto table = cache.BlockTable(SequenceId(sequence));
  return {table.begin(), table.end()};
}

TEST(KvCacheTest, BlockBytesCountsKAndVOfEachLayer) {
  EXPECT_EQ(KvCache::BlockBytes(Config(3, 2, 6), KvType::kF16), 3u * 2 * (2 * 6 * 16 * 2));
  EXPECT_EQ(KvCache::BlockBytes(Config(30, 3, 64), KvType::kF32), 30u * 2 * (3 * 64 * 16 * 4));
}

TEST(KvCacheTest, LayersHaveMemoryOfTheirOwn) {
  FakeBackend backend(1 << 20);
  for (KvType type : {KvType::kF16, KvType::kF32}) {
    const auto cache = KvCache::Create(&backend, Config(), {type, 5});
    ASSERT_TRUE(cache.ok()) << cache.status();
    EXPECT_EQ((1u << 20) - backend.free_bytes(), 5 * KvCache::BlockBytes(Config(), type));
    const size_t half_bytes = 5u * 2 * 6 * 16 * (type == KvType::kF16 ? 2 : 4);
    for (int layer = 0; layer < 3; ++layer) {
      const KvLayer view = (*cache)->Layer(layer);
      EXPECT_EQ(view.type, type);
      // Written to the last byte: a sanitizer sees memory that is too short, the check below memory shared.
      std::fill_n(view.k, half_bytes, std::byte(2 * layer + 1));
      std::fill_n(view.v, half_bytes, std::byte(2 * layer + 2));
    }
    for (int layer = 0; layer < 3; ++layer) {
      const KvLayer view = (*cache)->Layer(layer);
      EXPECT_TRUE(std::all_of(view.k, view.k + half_bytes,
                              [&](std::byte b) { return b == std::byte(2 * layer + 1); }));
      EXPECT_TRUE(std::all_of(view.v, view.v + half_bytes,
                              [&](std::byte b) { return b == std::byte(2 * layer + 2); }));
    }
  }
  EXPECT_EQ(backend.free_bytes(), 1u << 20);
}

TEST(KvCacheTest, TooLittleMemoryNamesTheBytes) {
  const uint64_t bytes = 5 * KvCache::BlockBytes(Config(), KvType::kF16);
  FakeBackend backend(bytes - 1);
  const auto cache = KvCache::Create(&backend, Config(), {KvType::kF16, 5});
  EXPECT_EQ(cache.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(cache.status().message()), HasSubstr(absl::StrCat(bytes, " bytes")));
  EXPECT_EQ(backend.free_bytes(), bytes - 1);  // what had been allocated went back
}

TEST(KvCacheTest, SizesThatOverflowAreRefused) {
  constexpr int kMax = std::numeric_limits<int>::max();
  FakeBackend backend(1000);
  EXPECT_EQ(KvCache::BlockBytes(Config(kMax, kMax, kMax), KvType::kF32),
            std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(KvCache::Create(&backend, Config(kMax, kMax, kMax), {KvType::kF32, kMax}).status().code(),
            absl::StatusCode::kResourceExhausted);
  // 2^31 * 2 * 2^14 * 2^14 * 16 * 2 wraps to small numbers in 64 bits.
  EXPECT_EQ(
      KvCache::Create(&backend, Config(1 << 30, 1 << 14, 1 << 14), {KvType::kF16, 1 << 30}).status().code(),
      absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(KvCache::Create(&backend, Config(), {KvType::kF16, 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(KvCache::Create(&backend, Config(3, -1, 6), {KvType::kF16, 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
  const absl::Status odd = KvCache::Create(&backend, Config(3, 2, 48), {KvType::kQ8_0, 1}).status();
  EXPECT_EQ(odd.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(odd.message()), HasSubstr("48"));
}

TEST(KvCacheTest, GrowsBlockByBlock) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 6);
  EXPECT_TRUE(Table(*cache, 1).empty());
  cache->Open(SequenceId(1), RopeSet::kShort, {});
  ASSERT_TRUE(cache->Grow(SequenceId(1), 1).ok());
  EXPECT_EQ(cache->free_blocks(), 5);
  ASSERT_TRUE(cache->Grow(SequenceId(1), 16).ok());
  EXPECT_EQ(cache->free_blocks(), 5);
  ASSERT_TRUE(cache->Grow(SequenceId(1), 33).ok());
  EXPECT_EQ(cache->free_blocks(), 3);
  ASSERT_TRUE(cache->Grow(SequenceId(1), 2).ok());  // never shrinks
  EXPECT_THAT(Table(*cache, 1), ElementsAre(0, 1, 2));
  EXPECT_EQ(cache->HeldBlocks(SequenceId(1)), 3);
  cache->Release(SequenceId(1));
  cache->Release(SequenceId(77));
  EXPECT_EQ(cache->free_blocks(), 6);
  EXPECT_EQ(cache->blocks(), 6);
}

TEST(KvCacheTest, TooFewBlocksNamesBothNumbersAndTakesNone) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 4);
  cache->Open(SequenceId(1), RopeSet::kShort, {});
  ASSERT_TRUE(cache->Grow(SequenceId(1), 20).ok());
  cache->Open(SequenceId(2), RopeSet::kShort, {});
  const absl::Status full = cache->Grow(SequenceId(2), 33);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("needs 3 KV blocks, 2 of 4 are free"));
  EXPECT_EQ(cache->free_blocks(), 2);
  EXPECT_TRUE(cache->Grow(SequenceId(2), 32).ok());
  EXPECT_EQ(cache->free_blocks(), 0);
}

TEST(KvCacheTest, BlocksThatKeepNothingAreReusedLastFreedFirst) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 8, 0, false);
  Compute(cache.get(), 1, Ids(48));
  Compute(cache.get(), 2, Ids(32));
  EXPECT_THAT(Table(*cache, 2), ElementsAre(3, 4));
  cache->Release(SequenceId(1));
  Compute(cache.get(), 3, Ids(64));
  EXPECT_THAT(Table(*cache, 3), ElementsAre(0, 1, 2, 5));
}

TEST(KvCacheTest, APrefixIsFoundInWholeBlocksOfCommittedPositions) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 8);
  EXPECT_EQ(Compute(cache.get(), 1, Ids(40)), 0);
  // Held blocks are shared, at most up to the position whose logits are wanted.
  EXPECT_EQ(Compute(cache.get(), 2, Ids(40)), 32);
  EXPECT_THAT(Table(*cache, 2), ElementsAre(0, 1, 3));
  EXPECT_EQ(cache->free_blocks(), 4);
  EXPECT_EQ(Compute(cache.get(), 3, Ids(32)), 16);
  // The second block was computed once more, and given back for the one that is there.
  EXPECT_THAT(Table(*cache, 3), ElementsAre(0, 1));
  EXPECT_EQ(cache->free_blocks(), 4);
  for (const uint64_t id : {1, 2, 3}) cache->Release(SequenceId(id));
  EXPECT_EQ(cache->free_blocks(), 8);
  EXPECT_EQ(cache->cached_blocks(), 2);
  const CachedPrefix found = cache->FindPrefix(RopeSet::kShort, Ids(47));
  EXPECT_EQ(found.tokens, 32);
  EXPECT_EQ(found.blocks, 2);
  EXPECT_EQ(found.idle_blocks, 2);
  EXPECT_EQ(cache->FindPrefix(RopeSet::kShort, Ids(31)).tokens, 16);
  EXPECT_EQ(cache->FindPrefix(RopeSet::kShort, Ids(15)).tokens, 0);
}

TEST(KvCacheTest, KeysAreOfPositionsAndOfAllThatStandsBefore) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 16);
  Compute(cache.get(), 1, Ids(48));
  EXPECT_EQ(cache->FindPrefix(RopeSet::kShort, Ids(48, 16)).tokens, 0);  // the second block, at position 0
  std::vector<int32_t> other = Ids(48);
  other[3] = 77;
  EXPECT_EQ(cache->FindPrefix(RopeSet::kShort, other).tokens, 0);  // same ids behind another beginning
  other = Ids(48);
  other[31] = 77;
  EXPECT_EQ(cache->FindPrefix(RopeSet::kShort, other).tokens, 16);
  EXPECT_EQ(cache->FindPrefix(RopeSet::kLong, Ids(48)).tokens, 0);
  EXPECT_EQ(Compute(cache.get(), 2, Ids(48), RopeSet::kLong), 0);
  EXPECT_EQ(Compute(cache.get(), 3, Ids(48), RopeSet::kLong), 32);
}

TEST(KvCacheTest, WhatIsNotCommittedIsNotFound) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 8);
  cache->Open(SequenceId(1), RopeSet::kShort, {});
  ASSERT_TRUE(cache->Grow(SequenceId(1), 48).ok());
  EXPECT_EQ(cache->FindPrefix(RopeSet::kShort, Ids(48)).tokens, 0);
  cache->Commit(SequenceId(1), Ids(31));
  EXPECT_EQ(cache->FindPrefix(RopeSet::kShort, Ids(48)).tokens, 16);
  cache->Release(SequenceId(1));  // as after a fault in the next step
  EXPECT_EQ(cache->FindPrefix(RopeSet::kShort, Ids(48)).tokens, 16);
  EXPECT_EQ(cache->cached_blocks(), 1);
  cache->CheckInvariants();
}

TEST(KvCacheTest, TheChainUsedLongestAgoGoesFirstFromItsEnd) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 6);
  Compute(cache.get(), 1, Ids(48));
  Compute(cache.get(), 2, Ids(48, 1000));
  cache->Release(SequenceId(1));
  cache->Release(SequenceId(2));
  const auto cached = [&](int first) { return cache->FindPrefix(RopeSet::kShort, Ids(48, first)).tokens; };
  Compute(cache.get(), 3, Ids(16, 2000));
  EXPECT_EQ(cached(0), 32);
  EXPECT_EQ(cached(1000), 48);
  cache->Release(SequenceId(3));
  EXPECT_EQ(Compute(cache.get(), 4, Ids(17)), 16);  // used again: now the other is older, but for one block
  cache->Release(SequenceId(4));
  Compute(cache.get(), 5, Ids(48, 3000));
  EXPECT_EQ(cached(0), 16);
  EXPECT_EQ(cached(1000), 16);
  EXPECT_EQ(cache->evicted_blocks(), 4u);
}

TEST(KvCacheTest, OffMeansNothingIsKept) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 8, 0, false);
  Compute(cache.get(), 1, Ids(40));
  EXPECT_EQ(Compute(cache.get(), 2, Ids(40)), 0);
  cache->Release(SequenceId(1));
  cache->Release(SequenceId(2));
  EXPECT_EQ(cache->cached_blocks(), 0);
  EXPECT_EQ(cache->free_blocks(), 8);
}

TEST(KvCacheTest, AWindowLeavesBlocksBehind) {
  EXPECT_EQ(KvBlocksLeftBehind(1000, 0), 0);
  EXPECT_EQ(KvBlocksLeftBehind(34, 20), 0);  // the row at 34 sees 15 to 34
  EXPECT_EQ(KvBlocksLeftBehind(35, 20), 1);
  EXPECT_EQ(KvBlocksLeftBehind(16, 1), 1);
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 3, 20);
  ASSERT_EQ(KvBlocksOfWindow(20), 3);
  cache->Open(SequenceId(1), RopeSet::kShort, {});
  // Three blocks are enough for any length.
  for (int computed = 1; computed <= 500; ++computed) {
    ASSERT_TRUE(cache->Grow(SequenceId(1), computed).ok()) << computed;
    const std::vector<int32_t> table = Table(*cache, 1);
    for (int position = std::max(0, computed - 20); position < computed; ++position) {
      ASSERT_GE(table[static_cast<size_t>(position / 16)], 0) << position << " of " << computed;
    }
    cache->Commit(SequenceId(1), Ids(computed));
    cache->CheckInvariants();
    ASSERT_EQ(static_cast<int>(table.size()) - cache->HeldBlocks(SequenceId(1)),
              KvBlocksLeftBehind(computed, 20));
  }
  cache->Release(SequenceId(1));
  // What lay before the held blocks is gone, so these could not be found.
  EXPECT_EQ(cache->cached_blocks(), 0);
  EXPECT_EQ(cache->free_blocks(), 3);
}

TEST(KvCacheTest, BehindAWindowAPrefixIsKeptAsLongAsNobodyNeedsItsBlocks) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 20, 20);
  Compute(cache.get(), 1, Ids(160));
  EXPECT_EQ(cache->HeldBlocks(SequenceId(1)), 2);
  EXPECT_EQ(cache->free_blocks(), 18);
  cache->Release(SequenceId(1));
  EXPECT_EQ(cache->cached_blocks(), 10);
  const CachedPrefix found = cache->FindPrefix(RopeSet::kShort, Ids(170));
  EXPECT_EQ(found.tokens, 160);
  EXPECT_EQ(found.blocks, 2);
  EXPECT_EQ(found.idle_blocks, 2);
  EXPECT_EQ(Compute(cache.get(), 2, Ids(170)), 160);
  EXPECT_EQ(Table(*cache, 2)[7], -1);
  EXPECT_GE(Table(*cache, 2)[9], 0);
}

TEST(KvCacheTest, OwnBlocksAreCountedOnceForTheFirstThatHoldsThem) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 16);
  Compute(cache.get(), 1, Ids(40));
  Compute(cache.get(), 2, Ids(60));
  Compute(cache.get(), 3, Ids(60));
  const SequenceId order[] = {SequenceId(1), SequenceId(2), SequenceId(3)};
  int own[3];
  cache->CountOwnBlocks(order, own);
  EXPECT_THAT(own, ElementsAre(3, 2, 1));
  const SequenceId reversed[] = {SequenceId(3), SequenceId(2), SequenceId(1)};
  cache->CountOwnBlocks(reversed, own);
  EXPECT_THAT(own, ElementsAre(4, 1, 1));
}

}  // namespace
}  // namespace moepool
