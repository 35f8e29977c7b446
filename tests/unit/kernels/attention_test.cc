// Attention over one split: every instruction set against the scalar form bit for bit, the scalar form
// against f64.
#include <algorithm>

#include "tests/unit/kernels/kernel_testing.h"

namespace moepool {
namespace {

// A cache of one KV head in 40 blocks, of which a split uses 16 in a shuffled order.
struct Cache {
  Cache(KvType type, int head_dim, uint64_t seed) : type(type), head_dim(head_dim) {
    std::mt19937_64 rng(seed);
    std::normal_distribution<float> normal;
    const int64_t elements = int64_t{40} * 16 * head_dim;
    for (std::vector<float>* values : {&k, &v}) {
      values->resize(elements);
      for (float& x : *values) x = normal(rng);
    }
    if (type == KvType::kF16) {
      for (std::vector<float>* values : {&k, &v}) {
        std::vector<uint16_t>& halves = values == &k ? k16 : v16;
        for (float& x : *values) {
          halves.push_back(FloatToHalf(x));
          x = HalfToFloat(halves.back());
        }
      }
    }
    for (int i = 0; i < 40; ++i) blocks.push_back(i);
    std::shuffle(blocks.begin(), blocks.end(), rng);
  }
  const std::byte* K() const {
    return type == KvType::kF16 ? reinterpret_cast<const std::byte*>(k16.data())
                                : reinterpret_cast<const std::byte*>(k.data());
  }
  const std::byte* V() const {
    return type == KvType::kF16 ? reinterpret_cast<const std::byte*>(v16.data())
                                : reinterpret_cast<const std::byte*>(v.data());
  }
  KvType type;
  int head_dim;
  std::vector<float> k, v;  // as the kernel reads them
  std::vector<uint16_t> k16, v16;
  std::vector<int32_t> blocks;
};

struct Split {
  std::vector<float> max, sum, acc;
};

Split Attend(const KernelTable& table, const Cache& cache, int keys, int heads, const std::vector<float>& q) {
  GuardedFloats scratch(kAttentionScratchFloats, 1);
  GuardedFloats max(heads), sum(heads), acc(heads * cache.head_dim, 1);
  table.attend_split(cache.type, cache.K(), cache.V(), 16 * cache.head_dim, cache.blocks.data(), keys,
                     cache.head_dim, heads, 0.125f, q.data(), scratch.data(), max.data(), sum.data(),
                     acc.data());
  EXPECT_TRUE(scratch.GuardsHold() && max.GuardsHold() && sum.GuardsHold() && acc.GuardsHold());
  return {max.Values(), sum.Values(), acc.Values()};
}

std::vector<float> Queries(int n, uint64_t seed, float magnitude) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> q(n);
  for (float& x : q) x = normal(rng) * magnitude;
  return q;
}

class AttentionKernelTest : public ::testing::TestWithParam<KvType> {};
INSTANTIATE_TEST_SUITE_P(CacheTypes, AttentionKernelTest, ::testing::Values(KvType::kF16, KvType::kF32),
                         [](const auto& info) { return info.param == KvType::kF16 ? "F16" : "F32"; });

TEST_P(AttentionKernelTest, SimdEqualsScalar) {
  for (const KernelTable* table : SimdTables()) {
    for (int dim : {2, 6, 8, 14, 64, 80, 96, 100, 128, 512}) {
      const Cache cache(GetParam(), dim, kTestSeed + dim);
      for (int keys : {1, 2, 8, 9, 15, 16, 17, 31, 33, 255, 256}) {
        for (int heads : {1, 2, 3, 4, 5, 9}) {
          if (dim > 128 && (keys % 3 != 0 || heads > 5)) continue;  // the scalar form is slow
          const std::vector<float> q = Queries(heads * dim, kTestSeed + keys, 1.0f);
          const Split a = Attend(*ScalarKernels(), cache, keys, heads, q);
          const Split b = Attend(*table, cache, keys, heads, q);
          ASSERT_TRUE(SameFloats(a.max, b.max)) << dim << " " << keys << " " << heads;
          ASSERT_TRUE(SameFloats(a.sum, b.sum)) << dim << " " << keys << " " << heads;
          ASSERT_TRUE(SameFloats(a.acc, b.acc)) << dim << " " << keys << " " << heads;
        }
      }
    }
  }
}

TEST_P(AttentionKernelTest, SimdEqualsScalarWhereScoresAreExtreme) {
  for (const KernelTable* table : SimdTables()) {
    const Cache cache(GetParam(), 64, kTestSeed);
    for (float magnitude : {0.0f, 1e-30f, 100.0f, 1e30f, 3e38f}) {
      const std::vector<float> q = Queries(3 * 64, kTestSeed, magnitude);
      const Split a = Attend(*ScalarKernels(), cache, 37, 3, q);
      const Split b = Attend(*table, cache, 37, 3, q);
      EXPECT_TRUE(SameFloats(a.max, b.max)) << magnitude;
      EXPECT_TRUE(SameFloats(a.sum, b.sum)) << magnitude;
      EXPECT_TRUE(SameFloats(a.acc, b.acc)) << magnitude;
    }
  }
}

TEST_P(AttentionKernelTest, ScalarIsNearF64) {
  const int dim = 80;
  const Cache cache(GetParam(), dim, kTestSeed);
  for (int keys : {1, 19, 256}) {
    const std::vector<float> q = Queries(2 * dim, kTestSeed, 1.0f);
    const Split split = Attend(*ScalarKernels(), cache, keys, 2, q);
    for (int h = 0; h < 2; ++h) {
      std::vector<double> p(keys);
      double sum = 0;
      for (int j = 0; j < keys; ++j) {
        const int64_t block = int64_t{cache.blocks[j / 16]} * 16 * dim;
        double score = 0;
        for (int d = 0; d < dim; ++d) score += double{cache.k[block + 16 * d + j % 16]} * q[h * dim + d];
        p[j] = std::exp(score * 0.125);
        sum += p[j];
      }
      for (int d = 0; d < dim; ++d) {
        double value = 0;
        for (int j = 0; j < keys; ++j) {
          value += p[j] / sum * cache.v[int64_t{cache.blocks[j / 16]} * 16 * dim + j % 16 * dim + d];
        }
        // Scores err by up to (dim + 1) u sum|k q| / 8, about 1e-5 here, and so do the weights.
        EXPECT_NEAR(split.acc[h * dim + d] / split.sum[h], value, 5e-5);
      }
    }
  }
}

TEST_P(AttentionKernelTest, KeysBeyondTheLastAreAsIfAbsent) {
  std::vector<const KernelTable*> tables = SimdTables();
  tables.push_back(ScalarKernels());
  const Cache cache(GetParam(), 64, kTestSeed);
  Cache poisoned = cache;
  const int keys = 21;
  for (int j = keys; j < 256; ++j) {
    const int64_t block = int64_t{cache.blocks[j / 16]} * 16 * 64;
    for (int d = 0; d < 64; ++d) {
      for (int64_t at : {block + 16 * d + j % 16, block + j % 16 * 64 + d}) {
        const bool key = at == block + 16 * d + j % 16;
        (key ? poisoned.k : poisoned.v)[at] = std::numeric_limits<float>::quiet_NaN();
        if (GetParam() == KvType::kF16) (key ? poisoned.k16 : poisoned.v16)[at] = 0x7e00;
      }
    }
  }
  const std::vector<float> q = Queries(3 * 64, kTestSeed, 1.0f);
  for (const KernelTable* table : tables) {
    const Split a = Attend(*table, cache, keys, 3, q);
    const Split b = Attend(*table, poisoned, keys, 3, q);
    EXPECT_TRUE(SameFloats(a.max, b.max));
    EXPECT_TRUE(SameFloats(a.sum, b.sum));
    EXPECT_TRUE(SameFloats(a.acc, b.acc));
    for (float x : a.acc) EXPECT_TRUE(std::isfinite(x));
  }
}

TEST(AttentionMergeTest, SimdEqualsScalarAndFollowsTheFormula) {
  for (int dim : {2, 14, 64, 100}) {
    for (float max1 : {-3.0f, 0.5f, 200.0f, -200.0f}) {
      const std::vector<float> acc0 = Queries(dim, kTestSeed, 2.0f);
      const std::vector<float> acc1 = Queries(dim, kTestSeed + 1, 2.0f);
      float max = 0.25f;
      float sum = 7.5f;
      std::vector<float> acc = acc0;
      ScalarKernels()->merge_split(dim, max1, 3.25f, acc1.data(), &max, &sum, acc.data());
      std::vector<float> out(dim);
      ScalarKernels()->finish_split(dim, sum, acc.data(), out.data());
      const double top = std::max(0.25, double{max1});
      const double a = std::exp(0.25 - top);
      const double b = std::exp(max1 - top);
      EXPECT_EQ(max, static_cast<float>(top));
      for (int d = 0; d < dim; ++d) {
        EXPECT_NEAR(out[d], (acc0[d] * a + acc1[d] * b) / (7.5 * a + 3.25 * b), 1e-5);
      }
      for (const KernelTable* table : SimdTables()) {
        float other_max = 0.25f;
        float other_sum = 7.5f;
        std::vector<float> other = acc0;
        std::vector<float> other_out(dim);
        table->merge_split(dim, max1, 3.25f, acc1.data(), &other_max, &other_sum, other.data());
        table->finish_split(dim, other_sum, other.data(), other_out.data());
        EXPECT_TRUE(SameFloats({max, sum}, {other_max, other_sum}));
        EXPECT_TRUE(SameFloats(acc, other));
        EXPECT_TRUE(SameFloats(out, other_out));
      }
    }
  }
}

}  // namespace
}  // namespace moepool
