#include "router/kv_cache.h"

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>

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

std::unique_ptr<KvCache> Make(FakeBackend* backend, int blocks) {
  auto cache = KvCache::Create(backend, Config(), KvType::kF16, blocks);
  EXPECT_TRUE(cache.ok()) << cache.status();
  return cache.ok() ? *std::move(cache) : nullptr;
}

TEST(KvCacheTest, BlockBytesCountsKAndVOfEachLayer) {
  EXPECT_EQ(KvCache::BlockBytes(Config(3, 2, 6), KvType::kF16), 3u * 2 * (2 * 6 * 16 * 2));
  EXPECT_EQ(KvCache::BlockBytes(Config(30, 3, 64), KvType::kF32), 30u * 2 * (3 * 64 * 16 * 4));
}

TEST(KvCacheTest, LayersHaveMemoryOfTheirOwn) {
  FakeBackend backend(1 << 20);
  for (KvType type : {KvType::kF16, KvType::kF32}) {
    const auto cache = KvCache::Create(&backend, Config(), type, 5);
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
  const auto cache = KvCache::Create(&backend, Config(), KvType::kF16, 5);
  EXPECT_EQ(cache.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(cache.status().message()), HasSubstr(absl::StrCat(bytes, " bytes")));
  EXPECT_EQ(backend.free_bytes(), bytes - 1);  // what had been allocated went back
}

TEST(KvCacheTest, SizesThatOverflowAreRefused) {
  constexpr int kMax = std::numeric_limits<int>::max();
  FakeBackend backend(1000);
  EXPECT_EQ(KvCache::BlockBytes(Config(kMax, kMax, kMax), KvType::kF32),
            std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(KvCache::Create(&backend, Config(kMax, kMax, kMax), KvType::kF32, kMax).status().code(),
            absl::StatusCode::kResourceExhausted);
  // 2^31 * 2 * 2^14 * 2^14 * 16 * 2 wraps to small numbers in 64 bits.
  EXPECT_EQ(
      KvCache::Create(&backend, Config(1 << 30, 1 << 14, 1 << 14), KvType::kF16, 1 << 30).status().code(),
      absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(KvCache::Create(&backend, Config(), KvType::kF16, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(KvCache::Create(&backend, Config(3, -1, 6), KvType::kF16, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(KvCacheTest, ReserveRoundsUpToBlocks) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 10);
  EXPECT_TRUE(cache->Reserve(SequenceId(1), 1).ok());
  EXPECT_EQ(cache->free_blocks(), 9);
  EXPECT_TRUE(cache->Reserve(SequenceId(2), 16).ok());
  EXPECT_EQ(cache->free_blocks(), 8);
  EXPECT_TRUE(cache->Reserve(SequenceId(3), 17).ok());
  EXPECT_EQ(cache->free_blocks(), 6);
  EXPECT_EQ(cache->BlockTable(SequenceId(3)).size(), 2u);
  EXPECT_EQ(cache->blocks(), 10);
}

TEST(KvCacheTest, ErrorsTakeNothing) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 4);
  ASSERT_TRUE(cache->Reserve(SequenceId(1), 20).ok());
  const absl::Status full = cache->Reserve(SequenceId(2), 33);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("needs 3 KV blocks, 2 of 4 are free"));
  EXPECT_EQ(cache->Reserve(SequenceId(2), std::numeric_limits<int>::max()).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cache->Reserve(SequenceId(1), 1).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(cache->Reserve(SequenceId(2), 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cache->free_blocks(), 2);
  EXPECT_TRUE(cache->BlockTable(SequenceId(2)).empty());
  EXPECT_EQ(cache->BlockTable(SequenceId(1)).size(), 2u);
  EXPECT_TRUE(cache->Reserve(SequenceId(2), 32).ok());
  cache->Free(SequenceId(77));
  EXPECT_EQ(cache->free_blocks(), 0);
}

TEST(KvCacheTest, BlocksFreedLastAreReusedFirst) {
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, 8);
  ASSERT_TRUE(cache->Reserve(SequenceId(1), 48).ok());
  EXPECT_THAT(cache->BlockTable(SequenceId(1)), ElementsAre(0, 1, 2));
  ASSERT_TRUE(cache->Reserve(SequenceId(2), 32).ok());
  EXPECT_THAT(cache->BlockTable(SequenceId(2)), ElementsAre(3, 4));
  cache->Free(SequenceId(1));
  ASSERT_TRUE(cache->Reserve(SequenceId(3), 64).ok());
  EXPECT_THAT(cache->BlockTable(SequenceId(3)), ElementsAre(0, 1, 2, 5));
}

TEST(KvCacheTest, RandomUseLosesNoBlockAndSharesNone) {
  constexpr uint32_t kSeed = 31;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  constexpr int kBlocks = 37;
  std::mt19937 rng(kSeed);
  FakeBackend backend(1 << 20);
  const auto cache = Make(&backend, kBlocks);
  struct Held {
    const int32_t* table;
    std::vector<int32_t> blocks;
  };
  std::map<uint64_t, Held> held;
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    if (rng() % 2 == 0) {
      const uint64_t id = rng() % 100;
      const int tokens = 1 + rng() % 150;
      const int needed = (tokens + 15) / 16;
      const bool expected = !held.contains(id) && needed <= cache->free_blocks();
      ASSERT_EQ(cache->Reserve(SequenceId(id), tokens).ok(), expected);
      refused += !expected;
      if (expected) {
        const auto table = cache->BlockTable(SequenceId(id));
        ASSERT_EQ(table.size(), static_cast<size_t>(needed));
        held[id] = {table.data(), {table.begin(), table.end()}};
      }
    } else if (!held.empty()) {
      const auto victim = std::next(held.begin(), rng() % held.size());
      cache->Free(SequenceId(victim->first));
      EXPECT_TRUE(cache->BlockTable(SequenceId(victim->first)).empty());
      held.erase(victim);
    }
    std::set<int32_t> all;
    size_t total = 0;
    for (const auto& [id, h] : held) {
      const auto table = cache->BlockTable(SequenceId(id));
      ASSERT_EQ(table.data(), h.table);  // tables stay where they were
      ASSERT_THAT(table, testing::ElementsAreArray(h.blocks));
      all.insert(table.begin(), table.end());
      total += table.size();
    }
    ASSERT_EQ(all.size(), total);
    ASSERT_EQ(cache->free_blocks() + static_cast<int>(total), kBlocks);
    if (!all.empty()) {
      ASSERT_GE(*all.begin(), 0);
      ASSERT_LT(*all.rbegin(), kBlocks);
    }
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace moepool
