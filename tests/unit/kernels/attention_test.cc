// Attention over one split: every instruction set against the scalar form bit for bit, the scalar form
// against f64.
#include <algorithm>
#include <numeric>
#include <utility>

#include "tests/unit/kernels/kernel_testing.h"

namespace moepool {
namespace {

constexpr int kCacheBlocks = 40;
constexpr std::byte kPoison{0xff};  // NaN as f16, bf16 and f32, and in the scales of Q8_0

// A cache of one KV head in 40 blocks, of which a split uses 16 in a shuffled order. Block -1 is poisoned.
class Cache {
 public:
  Cache(KvType type, int head_dim, uint64_t seed)
      : type_(type),
        head_dim_(head_dim),
        block_bytes_(KvHeadBlockBytes(type, head_dim)),
        k_((kCacheBlocks + 1) * block_bytes_, kPoison),
        v_(k_),
        blocks_(kCacheBlocks) {
    std::mt19937_64 rng(seed);
    std::normal_distribution<float> normal;
    const int codes = 16 * head_dim;
    for (std::vector<std::byte>* half : {&k_, &v_}) {
      for (std::byte* block = half->data() + block_bytes_; block < half->data() + half->size();
           block += block_bytes_) {
        for (int i = 0; i < codes; ++i) {
          if (type == KvType::kQ8_0) {
            block[i] = static_cast<std::byte>(static_cast<int>(rng() % 255) - 127);
          } else if (type == KvType::kF16) {
            Put(FloatToHalf(normal(rng)), block + 2 * i);
          } else if (type == KvType::kBF16) {
            Put(FloatToBFloat16(normal(rng)), block + 2 * i);
          } else {
            Put(normal(rng), block + 4 * i);
          }
        }
        if (type != KvType::kQ8_0) continue;
        for (int i = 0; i < codes / 32; ++i) {
          Put(FloatToHalf(0.03f * static_cast<float>(rng() % 1000) / 1000), block + codes + 2 * i);
        }
      }
    }
    std::iota(blocks_.begin(), blocks_.end(), 0);
    std::shuffle(blocks_.begin(), blocks_.end(), rng);
  }

  // Makes every byte of `key`, in K and V, one that must not be read.
  void Poison(int key) {
    const int slot = key % 16;
    std::byte* const k = Block(k_, key);
    std::byte* const v = Block(v_, key);
    const int element = type_ == KvType::kQ8_0 ? 1 : type_ == KvType::kF32 ? 4 : 2;
    for (int d = 0; d < head_dim_; ++d) std::fill_n(k + (16 * d + slot) * element, element, kPoison);
    std::fill_n(v + slot * head_dim_ * element, head_dim_ * element, kPoison);
    if (type_ != KvType::kQ8_0) return;
    for (std::byte* block : {k, v}) {
      for (int b = 0; b < head_dim_ / 32; ++b)
        std::fill_n(block + 16 * head_dim_ + 2 * (16 * b + slot), 2, kPoison);
    }
  }
  void FreeBlocksBefore(int key) { std::fill_n(blocks_.begin(), key / 16, -1); }

  double K(int key, int d) const { return Value(Block(k_, key), 16 * d + key % 16, d, key); }
  double V(int key, int d) const { return Value(Block(v_, key), key % 16 * head_dim_ + d, d, key); }
  KvSplit Split() const {
    return {type_,        k_.data() + block_bytes_, v_.data() + block_bytes_,
            block_bytes_, blocks_.data(),           head_dim_};
  }
  int head_dim() const { return head_dim_; }

 private:
  template <typename T>
  static void Put(T value, std::byte* p) {
    std::memcpy(p, &value, sizeof value);
  }
  template <typename T>
  static T Get(const std::byte* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  template <typename Half>
  auto Block(Half& half, int key) const -> decltype(half.data()) {
    return half.data() + (blocks_[key / 16] + 1) * block_bytes_;
  }
  double Value(const std::byte* block, int i, int d, int key) const {
    if (type_ == KvType::kF32) return Get<float>(block + 4 * i);
    if (type_ == KvType::kBF16) return BFloat16ToFloat(Get<uint16_t>(block + 2 * i));
    if (type_ == KvType::kF16) return HalfToFloat(Get<uint16_t>(block + 2 * i));
    const double scale = HalfToFloat(Get<uint16_t>(block + 16 * head_dim_ + 2 * (d / 32 * 16 + key % 16)));
    return scale * static_cast<int8_t>(block[i]);
  }

  KvType type_;
  int head_dim_;
  int64_t block_bytes_;
  std::vector<std::byte> k_, v_;
  std::vector<int32_t> blocks_;
};

struct Attended {
  std::vector<float> max, sum, acc;
};

// Rows of `heads` queries each, q [rows, heads, head_dim], row r over keys [begin[r], end[r]).
std::vector<Attended> Attend(const KernelTable& table, const Cache& cache, const std::vector<int>& begin,
                             const std::vector<int>& end, int heads, const std::vector<float>& q) {
  const int rows = static_cast<int>(begin.size());
  const int64_t row_floats = int64_t{heads} * cache.head_dim();
  const int64_t q_stride = row_floats + 3, out_stride = 2 * heads + row_floats + 5;
  GuardedFloats scratch(kAttentionScratchFloats), queries(rows * q_stride, 1), out(rows * out_stride, 1);
  std::fill_n(out.data(), rows * out_stride, -7.0f);
  for (int r = 0; r < rows; ++r) {
    std::copy_n(q.data() + r * row_floats, row_floats, queries.data() + r * q_stride);
  }
  const SplitRows split_rows = {rows,           heads,    begin.data(), end.data(),
                                queries.data(), q_stride, out.data(),   out_stride};
  table.attend_split(cache.Split(), split_rows, 0.125f, scratch.data());
  EXPECT_TRUE(scratch.GuardsHold() && out.GuardsHold());
  std::vector<Attended> attended;
  for (int r = 0; r < rows; ++r) {
    const float* const max = out.data() + r * out_stride;
    const float* const sum = max + heads;
    const float* const acc = sum + heads;
    attended.push_back({{max, sum}, {sum, acc}, {acc, acc + row_floats}});
    for (int i = 0; i < 5; ++i) EXPECT_EQ(acc[row_floats + i], -7.0f);
  }
  return attended;
}

Attended Attend(const KernelTable& table, const Cache& cache, int begin, int end, int heads,
                const std::vector<float>& q) {
  return Attend(table, cache, std::vector<int>{begin}, std::vector<int>{end}, heads, q)[0];
}

::testing::AssertionResult Same(const Attended& a, const Attended& b) {
  const auto max = SameFloats(a.max, b.max);
  if (!max) return ::testing::AssertionFailure() << "max " << max.message();
  const auto sum = SameFloats(a.sum, b.sum);
  if (!sum) return ::testing::AssertionFailure() << "sum " << sum.message();
  const auto acc = SameFloats(a.acc, b.acc);
  if (!acc) return ::testing::AssertionFailure() << "acc " << acc.message();
  return ::testing::AssertionSuccess();
}

std::vector<float> Queries(int n, uint64_t seed, float magnitude) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> q(n);
  for (float& x : q) x = normal(rng) * magnitude;
  return q;
}

std::vector<const KernelTable*> AllTables() {
  std::vector<const KernelTable*> tables = SimdTables();
  tables.push_back(ScalarKernels());
  return tables;
}

class AttentionKernelTest : public ::testing::TestWithParam<KvType> {
 protected:
  // Compares every SIMD table with the scalar one over keys [begin, end).
  void ExpectSame(const Cache& cache, int begin, int end, int heads) {
    const std::vector<float> q = Queries(heads * cache.head_dim(), kTestSeed + end, 1.0f);
    const Attended expected = Attend(*ScalarKernels(), cache, begin, end, heads, q);
    for (const KernelTable* table : SimdTables()) {
      ASSERT_TRUE(Same(Attend(*table, cache, begin, end, heads, q), expected))
          << table->name << ": " << heads << " heads of " << cache.head_dim() << ", keys " << begin << " to "
          << end;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(CacheTypes, AttentionKernelTest,
                         ::testing::Values(KvType::kF16, KvType::kBF16, KvType::kF32, KvType::kQ8_0),
                         [](const auto& info) {
                           return info.param == KvType::kF16    ? "F16"
                                  : info.param == KvType::kBF16 ? "BF16"
                                  : info.param == KvType::kF32  ? "F32"
                                                                : "Q8_0";
                         });

TEST_P(AttentionKernelTest, SimdEqualsScalar) {
  for (int dim : {2, 6, 8, 14, 32, 64, 80, 96, 100, 128, 512}) {
    if (GetParam() == KvType::kQ8_0 && dim % 32 != 0) continue;
    const Cache cache(GetParam(), dim, kTestSeed + dim);
    for (int keys : {1, 2, 8, 9, 15, 16, 17, 31, 33, 255, 256}) {
      for (int heads : {1, 2, 3, 4, 5, 6, 7, 8, 9}) {
        if (dim > 128 && (keys % 3 != 0 || heads > 5)) continue;  // the scalar form is slow
        ASSERT_NO_FATAL_FAILURE(ExpectSame(cache, 0, keys, heads));
      }
    }
  }
}

TEST_P(AttentionKernelTest, SimdEqualsScalarFromAnyFirstKey) {
  for (int dim : {32, 64, 96, 128}) {
    const Cache cache(GetParam(), dim, kTestSeed + dim);
    std::mt19937_64 rng(kTestSeed + dim);
    for (int begin = 0; begin < 256; ++begin) {
      const int heads = 1 + begin % 8;
      const int any = begin + 1 + static_cast<int>(rng() % (256 - begin));
      for (int end : {begin + 1, any, 256}) {
        if (end == 256 && begin % 5 != 0) continue;
        ASSERT_NO_FATAL_FAILURE(ExpectSame(cache, begin, end, heads));
      }
    }
  }
}

TEST_P(AttentionKernelTest, SimdEqualsScalarWhereScoresAreExtreme) {
  const Cache cache(GetParam(), 64, kTestSeed);
  for (float magnitude : {0.0f, 1e-30f, 100.0f, 1e30f, 3e38f}) {
    const std::vector<float> q = Queries(3 * 64, kTestSeed, magnitude);
    for (int begin : {0, 5, 20}) {
      const Attended expected = Attend(*ScalarKernels(), cache, begin, 37, 3, q);
      for (const KernelTable* table : SimdTables()) {
        EXPECT_TRUE(Same(Attend(*table, cache, begin, 37, 3, q), expected)) << magnitude << " from " << begin;
      }
    }
  }
}

// Rows of a prefill, with and without a window, in calls of any number of rows: each as if alone.
TEST_P(AttentionKernelTest, RowsOfACallAreTheSameAsRowsAlone) {
  std::mt19937_64 rng(kTestSeed);
  for (int dim : {32, 64, 80, 96, 128, 160}) {
    if (GetParam() == KvType::kQ8_0 && dim % 32 != 0) continue;
    const Cache cache(GetParam(), dim, kTestSeed + dim);
    for (int heads : {1, 2, 3, 4, 5, 7, 8, 12, 16}) {
      const int rows = 1 + static_cast<int>(rng() % (40 / heads + 1));
      const int step = 1 + static_cast<int>(rng() % 3);
      const std::vector<float> q = Queries(rows * heads * dim, kTestSeed + heads, 1.0f);
      for (int window : {0, 1, 5, 40}) {
        const int last = 200 + static_cast<int>(rng() % 56);
        std::vector<int> begin, end;
        for (int r = 0; r < rows; ++r) {
          end.push_back(std::max(1, last - step * (rows - 1 - r)));
          begin.push_back(window > 0 ? std::max(0, end.back() - window) : 0);
        }
        Cache poisoned = cache;
        for (int key = 0; key < 256; ++key) {
          if (key < begin.front() || key >= end.back()) poisoned.Poison(key);
        }
        poisoned.FreeBlocksBefore(begin.front());
        for (const KernelTable* table : AllTables()) {
          const std::vector<Attended> together = Attend(*table, poisoned, begin, end, heads, q);
          for (int r = 0; r < rows; ++r) {
            const std::vector<float> row(q.begin() + r * heads * dim, q.begin() + (r + 1) * heads * dim);
            ASSERT_TRUE(Same(together[r], Attend(*ScalarKernels(), cache, begin[r], end[r], heads, row)))
                << table->name << ": row " << r << " of " << rows << ", " << heads << " heads of " << dim
                << ", keys " << begin[r] << " to " << end[r];
          }
        }
      }
    }
  }
}

// A later row's key or value that is not finite does not reach an earlier row of the call.
TEST_P(AttentionKernelTest, RowsOfACallDoNotSeeLaterKeys) {
  for (int heads : {1, 3, 4}) {
    for (int visible : {1, 16, 21, 130}) {
      const Cache cache(GetParam(), 64, kTestSeed);
      Cache poisoned = cache;
      poisoned.Poison(visible);
      std::vector<int> begin, end;
      for (int r = 0; r < 6; ++r) {
        begin.push_back(0);
        end.push_back(visible + r / 2);
      }
      const std::vector<float> q = Queries(6 * heads * 64, kTestSeed, 1.0f);
      for (const KernelTable* table : AllTables()) {
        const std::vector<Attended> expected = Attend(*table, cache, begin, end, heads, q);
        const std::vector<Attended> rows = Attend(*table, poisoned, begin, end, heads, q);
        for (int r = 0; r < 6; ++r) {
          for (float x : rows[r].sum) EXPECT_EQ(std::isnan(x), r >= 2) << table->name;
          if (r >= 2) continue;
          EXPECT_TRUE(Same(rows[r], expected[r])) << table->name << " " << heads << " " << r;
        }
      }
    }
  }
}

TEST_P(AttentionKernelTest, ScalarIsNearF64) {
  for (int dim : {32, 96}) {
    const Cache cache(GetParam(), dim, kTestSeed);
    for (const auto& [begin, end] : {std::pair{0, 1}, {0, 19}, {18, 40}, {0, 256}, {255, 256}}) {
      const std::vector<float> q = Queries(2 * dim, kTestSeed, 1.0f);
      const Attended split = Attend(*ScalarKernels(), cache, begin, end, 2, q);
      for (int h = 0; h < 2; ++h) {
        std::vector<double> p(end);
        double sum = 0;
        double largest_score = 0, largest_value = 0;  // of the sums of magnitudes
        for (int j = begin; j < end; ++j) {
          double score = 0, magnitude = 0;
          for (int d = 0; d < dim; ++d) {
            score += cache.K(j, d) * q[h * dim + d];
            magnitude += std::abs(cache.K(j, d) * q[h * dim + d]);
            largest_value = std::max(largest_value, std::abs(cache.V(j, d)));
          }
          p[j] = std::exp(score * 0.125);
          sum += p[j];
          largest_score = std::max(largest_score, magnitude * 0.125);
        }
        // A score errs by (dim + 5) u times its sum of magnitudes, its difference from the maximum by twice
        // that, the exponential by 2 u more, and the weighted mean by that and by the two sums over keys.
        const double u = 0x1p-24;
        const double relative = 4 * (dim + 5) * u * largest_score + (2 * (end - begin) + 16) * u;
        for (int d = 0; d < dim; ++d) {
          double value = 0;
          for (int j = begin; j < end; ++j) value += p[j] / sum * cache.V(j, d);
          EXPECT_NEAR(split.acc[h * dim + d] / split.sum[h], value, relative * largest_value);
        }
      }
    }
  }
}

TEST_P(AttentionKernelTest, HiddenKeysAreAsIfAbsent) {
  for (const auto& [begin, end] : {std::pair{0, 21}, {5, 16}, {37, 141}, {48, 256}, {250, 251}}) {
    for (int heads : {1, 2, 3, 4}) {
      const Cache cache(GetParam(), 64, kTestSeed);
      Cache poisoned = cache;
      for (int j = 0; j < 256; ++j) {
        if (j < begin || j >= end) poisoned.Poison(j);
      }
      poisoned.FreeBlocksBefore(begin);
      const std::vector<float> q = Queries(heads * 64, kTestSeed, 1.0f);
      for (const KernelTable* table : AllTables()) {
        const Attended a = Attend(*table, cache, begin, end, heads, q);
        EXPECT_TRUE(Same(Attend(*table, poisoned, begin, end, heads, q), a))
            << table->name << ": " << heads << " heads, keys " << begin << " to " << end;
        for (float x : a.acc) EXPECT_TRUE(std::isfinite(x));
      }
      // And one that is visible is not.
      Cache visible = cache;
      visible.Poison(begin);
      for (const KernelTable* table : AllTables()) {
        for (float x : Attend(*table, visible, begin, end, heads, q).sum) EXPECT_TRUE(std::isnan(x));
      }
    }
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
