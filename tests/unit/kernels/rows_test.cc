// Kernels over single rows: every instruction set against the scalar form bit for bit, the scalar form
// against f64.
#include <limits>

#include "common/base/math.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace moepool {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> Random(size_t n, uint64_t seed, float magnitude = 1.0f) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng) * magnitude;
  return x;
}

// All exponents and signs, NaN and infinities among them, each with random mantissas.
std::vector<float> AllKinds(uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<float> x;
  for (uint32_t top = 0; top < 512; ++top) {
    for (int i = 0; i < 257; ++i)
      x.push_back(std::bit_cast<float>(top << 23 | static_cast<uint32_t>(rng() & 0x7fffff)));
    x.push_back(std::bit_cast<float>(top << 23));
    x.push_back(std::bit_cast<float>(top << 23 | 0x7fffff));
  }
  return x;
}

TEST(RowKernelsTest, ExpEqualsTheScalarFunction) {
  std::vector<float> x = AllKinds(kTestSeed);
  for (float v = -110; v < 95; v += 0.00731f) x.push_back(v);
  std::vector<float> expected;
  for (float v : x) expected.push_back(Exp(v));
  std::vector<const KernelTable*> tables = SimdTables();
  tables.push_back(ScalarKernels());
  for (const KernelTable* table : tables) {
    GuardedFloats y(x.size(), 1);
    table->exp(x.data(), static_cast<int64_t>(x.size()), y.data());
    EXPECT_TRUE(y.GuardsHold());
    EXPECT_TRUE(SameFloats(y.Values(), expected)) << table->name;
  }
}

TEST(RowKernelsTest, SiluMulEqualsScalar) {
  const std::vector<float> gate = AllKinds(kTestSeed);
  const std::vector<float> up = Random(gate.size(), kTestSeed);
  for (const KernelTable* table : SimdTables()) {
    for (size_t n : {size_t{0}, size_t{1}, size_t{7}, size_t{33}, gate.size()}) {
      GuardedFloats a(n, 5);
      GuardedFloats b(n, 2);
      ScalarKernels()->silu_mul(gate.data(), up.data(), static_cast<int64_t>(n), a.data());
      table->silu_mul(gate.data(), up.data(), static_cast<int64_t>(n), b.data());
      EXPECT_TRUE(b.GuardsHold());
      EXPECT_TRUE(SameFloats(a.Values(), b.Values())) << table->name << " " << n;
    }
  }
}

TEST(RowKernelsTest, SiluMulIsNearF64AndMayWriteOverItsGate) {
  std::vector<float> gate = Random(1000, kTestSeed, 8.0f);
  const std::vector<float> up = Random(1000, kTestSeed + 1);
  const std::vector<float> original = gate;
  ScalarKernels()->silu_mul(gate.data(), up.data(), 1000, gate.data());
  for (int i = 0; i < 1000; ++i) {
    const double expected = original[i] / (1 + std::exp(-double{original[i]})) * up[i];
    EXPECT_NEAR(gate[i], expected, 6 * 0x1p-24 * std::abs(expected));  // exp within 2 ulp and three roundings
  }
}

struct NormCase {
  NormKind kind;
  bool bias;
};

TEST(RowKernelsTest, NormEqualsScalarAndIsNearF64) {
  for (const NormCase& c :
       {NormCase{NormKind::kRms, false}, {NormKind::kRms, true}, {NormKind::kLayer, true}}) {
    for (int64_t cols : {1, 7, 8, 15, 16, 17, 31, 64, 576, 1003}) {
      const std::vector<float> x = Random(cols + 1, kTestSeed + cols, 3.0f);
      const std::vector<float> weight = Random(cols, kTestSeed + 1);
      const std::vector<float> bias = Random(cols, kTestSeed + 2);
      const NormWeights norm = {c.kind, weight.data(), c.bias ? bias.data() : nullptr, 1e-5f};
      GuardedFloats expected(cols, 1);
      ASSERT_TRUE(ScalarKernels()->norm(norm, x.data() + 1, cols, expected.data()));
      for (const KernelTable* table : SimdTables()) {
        GuardedFloats y(cols, 3);
        EXPECT_TRUE(table->norm(norm, x.data() + 1, cols, y.data()));
        EXPECT_TRUE(y.GuardsHold());
        EXPECT_TRUE(SameFloats(y.Values(), expected.Values())) << table->name << " " << cols;
      }
      double mean = 0;
      for (int64_t i = 0; i < cols; ++i) mean += x[i + 1];
      mean = c.kind == NormKind::kLayer ? mean / static_cast<double>(cols) : 0;
      double squares = 0;
      for (int64_t i = 0; i < cols; ++i) squares += (x[i + 1] - mean) * (x[i + 1] - mean);
      const double inv = 1 / std::sqrt(squares / static_cast<double>(cols) + norm.eps);
      for (int64_t i = 0; i < cols; ++i) {
        const double y = (x[i + 1] - mean) * inv * weight[i] + (c.bias ? bias[i] : 0);
        // A layer of one column is 0 but for the rounding of its mean, magnified by 1 / sqrt(eps).
        EXPECT_NEAR(expected.data()[i], y, 1e-5 * (1 + std::abs(y)) + (cols == 1 ? 1e-4 : 0));
      }
    }
  }
}

TEST(RowKernelsTest, NormReportsWhatIsNotFinite) {
  std::vector<const KernelTable*> tables = SimdTables();
  tables.push_back(ScalarKernels());
  for (const KernelTable* table : tables) {
    for (int at : {0, 17, 39}) {
      for (float bad :
           {kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), 3e38f}) {  // the last: its square
        std::vector<float> x = Random(40, kTestSeed);
        const std::vector<float> weight(40, 1.0f);
        std::vector<float> y(40);
        x[at] = bad;
        EXPECT_FALSE(table->norm({NormKind::kRms, weight.data(), nullptr, 1e-5f}, x.data(), 40, y.data()));
      }
    }
    const std::vector<float> x = Random(40, kTestSeed);
    std::vector<float> weight(40, 1.0f);
    weight[38] = kInf;
    std::vector<float> y(40);
    EXPECT_FALSE(table->norm({NormKind::kRms, weight.data(), nullptr, 1e-5f}, x.data(), 40, y.data()));
  }
}

TEST(RowKernelsTest, QuantizeEqualsScalar) {
  for (const KernelTable* table : SimdTables()) {
    for (float magnitude : {1.0f, 1e-42f, 1e-31f, 3e-30f, 1e-20f, 1e38f}) {
      std::vector<float> x = Random(32 * 50 + 1, kTestSeed, magnitude);
      // Halves of a step, where only rounding to even decides: maximum 127, so the scale is 1.
      for (int i = 0; i < 32; ++i) x[1 + i] = i == 0 ? 127.0f : static_cast<float>(i) - 15.5f;
      x[1 + 40] = kInf;
      x[1 + 70] = std::numeric_limits<float>::quiet_NaN();
      std::vector<int8_t> qa(1600 + 64, 77), qb(1600 + 64, 77);
      std::vector<float> sa(50 + 2, -3), sb(50 + 2, -3);
      EXPECT_FALSE(ScalarKernels()->quantize(x.data() + 1, 1600, qa.data() + 31, sa.data() + 1));
      EXPECT_FALSE(table->quantize(x.data() + 1, 1600, qb.data() + 31, sb.data() + 1));
      EXPECT_EQ(qa, qb) << magnitude;
      EXPECT_TRUE(SameFloats(sa, sb)) << magnitude;
      EXPECT_EQ(qa[31], 127);
      EXPECT_EQ(qa[32], -14);  // -14.5
      EXPECT_EQ(qa[33], -14);  // -13.5
      EXPECT_EQ(sa[2], 0);     // the block that holds infinity
      EXPECT_EQ(sa[3], 0);
      for (int i : {0, 30, 31 + 1600, 1663}) EXPECT_EQ(qb[i], 77);
      EXPECT_EQ(sb[0], -3);
      EXPECT_EQ(sb[51], -3);
    }
  }
}

TEST(RowKernelsTest, QuantizeIsWithinHalfAStep) {
  const std::vector<float> x = Random(3200, kTestSeed);
  std::vector<int8_t> q(3200);
  std::vector<float> scale(100);
  ASSERT_TRUE(ScalarKernels()->quantize(x.data(), 3200, q.data(), scale.data()));
  for (int i = 0; i < 3200; ++i) EXPECT_NEAR(q[i] * scale[i / 32], x[i], 0.50001 * scale[i / 32]);
  const std::vector<float> small(32, 0.9e-30f);
  ASSERT_TRUE(ScalarKernels()->quantize(small.data(), 32, q.data(), scale.data()));
  EXPECT_EQ(scale[0], 0);
  EXPECT_EQ(q[0], 0);
}

TEST(RowKernelsTest, ActivationBlocksEqualScalar) {
  std::mt19937_64 rng(kTestSeed);
  std::vector<int8_t> q(1 + 32 * 40);
  for (int8_t& v : q) v = static_cast<int8_t>(static_cast<int>(rng() % 255) - 127);
  for (int i = 1; i < 33; ++i) q[i] = -127;
  for (int i = 33; i < 65; ++i) q[i] = 127;
  const std::vector<float> scale = Random(40, kTestSeed);
  const auto blocks_of = [&](const KernelTable& table) {
    std::vector<ActivationBlock> blocks(41);  // one to guard
    std::memset(blocks.data(), 0x5a, blocks.size() * sizeof(ActivationBlock));
    table.activation_blocks(q.data() + 1, scale.data(), 1280, blocks.data());
    return blocks;
  };
  const std::vector<ActivationBlock> expected = blocks_of(*ScalarKernels());
  EXPECT_EQ(std::memcmp(expected[7].q, q.data() + 1 + 7 * 32, 32), 0);
  EXPECT_EQ(expected[0].neg_sum, 32 * 127);
  EXPECT_EQ(expected[1].neg_half_sums[1], -16 * 127);
  EXPECT_EQ(expected[1].scale, scale[1]);
  EXPECT_EQ(expected[1].scaled_sum, scale[1] * (32 * 127));
  EXPECT_EQ(expected[40].q[0], 0x5a);
  for (const KernelTable* table : SimdTables()) {
    const std::vector<ActivationBlock> blocks = blocks_of(*table);
    EXPECT_EQ(std::memcmp(blocks.data(), expected.data(), blocks.size() * sizeof(ActivationBlock)), 0)
        << table->name;
  }
}

TEST(RowKernelsTest, RowsOfAnyNumberOfBlocksEqualScalar) {
  const std::vector<float> x = Random(32 * 40, kTestSeed);
  for (const KernelTable* table : SimdTables()) {
    for (int count = 0; count <= 40; ++count) {
      std::vector<int8_t> qa(32 * count + 64, 77), qb(qa);
      std::vector<float> sa(count + 1, -3), sb(sa);
      std::vector<ActivationBlock> a(count + 1), b(count + 1);
      std::memset(a.data(), 0x5a, a.size() * sizeof(ActivationBlock));
      std::memset(b.data(), 0x5a, b.size() * sizeof(ActivationBlock));
      EXPECT_TRUE(ScalarKernels()->quantize(x.data(), 32 * count, qa.data(), sa.data()));
      EXPECT_TRUE(table->quantize(x.data(), 32 * count, qb.data(), sb.data()));
      EXPECT_EQ(qa, qb) << table->name << " " << count;
      EXPECT_EQ(sa, sb) << table->name << " " << count;
      ScalarKernels()->activation_blocks(qa.data(), sa.data(), 32 * count, a.data());
      table->activation_blocks(qa.data(), sa.data(), 32 * count, b.data());
      EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(ActivationBlock)), 0)
          << table->name << " " << count;
    }
  }
}

TEST(RowKernelsTest, SmallLoopsEqualScalar) {
  const std::vector<float> x = AllKinds(kTestSeed);
  for (const KernelTable* table : SimdTables()) {
    for (int64_t n : {0, 1, 9, 64, 1001}) {
      GuardedFloats a(n, 1), b(n, 2);
      ScalarKernels()->scale(x.data() + 1, 0.3f, n, a.data());
      table->scale(x.data() + 1, 0.3f, n, b.data());
      ScalarKernels()->add(x.data() + 40000, n, a.data());
      table->add(x.data() + 40000, n, b.data());
      EXPECT_TRUE(SameFloats(a.Values(), b.Values()));
      EXPECT_TRUE(b.GuardsHold());
    }
    std::vector<float> y(37, 1.0f);
    EXPECT_TRUE(table->finite(y.data(), 37));
    for (int i : {0, 20, 36}) {
      y[i] = -kInf;
      EXPECT_FALSE(table->finite(y.data(), 37));
      EXPECT_FALSE(ScalarKernels()->finite(y.data(), 37));
      y[i] = 1;
    }
  }
}

TEST(RowKernelsTest, RotateEqualsScalarAndRotates) {
  for (RopeKind kind : {RopeKind::kInterleaved, RopeKind::kNeox}) {
    for (int dims : {0, 2, 6, 64, 96}) {
      std::vector<float> cos, sin;
      for (int i = 0; i < dims / 2; ++i) {
        cos.push_back(std::cos(0.3f + static_cast<float>(i)));
        sin.push_back(std::sin(0.3f + static_cast<float>(i)));
      }
      const std::vector<float> x = Random(96, kTestSeed);
      std::vector<float> expected = x;
      ScalarKernels()->rotate(kind, cos.data(), sin.data(), dims, expected.data());
      for (const KernelTable* table : SimdTables()) {
        std::vector<float> y = x;
        table->rotate(kind, cos.data(), sin.data(), dims, y.data());
        EXPECT_TRUE(SameFloats(y, expected)) << table->name;
      }
      for (int i = 0; i < dims / 2; ++i) {
        const int a = kind == RopeKind::kNeox ? i : 2 * i;
        const int b = kind == RopeKind::kNeox ? i + dims / 2 : 2 * i + 1;
        EXPECT_NEAR(expected[a], x[a] * cos[i] - x[b] * sin[i], 1e-6);
        EXPECT_NEAR(expected[b], x[a] * sin[i] + x[b] * cos[i], 1e-6);
      }
      for (int i = dims; i < 96; ++i) EXPECT_EQ(expected[i], x[i]);
    }
  }
}

TEST(RowKernelsTest, StoreKvRoundsToNearestEvenInEveryTable) {
  const std::vector<float> all = AllKinds(kTestSeed);
  std::vector<const KernelTable*> tables = SimdTables();
  tables.push_back(ScalarKernels());
  for (const KernelTable* table : tables) {
    for (int dim : {2, 6, 64, 100}) {
      for (KvType type : {KvType::kF16, KvType::kBF16}) {
        const auto rounded = type == KvType::kF16 ? FloatToHalf : FloatToBFloat16;
        for (size_t at = 0; at + 2 * dim < all.size(); at += 997) {
          std::vector<uint16_t> k(16 * dim, 0x1234), v(16 * dim, 0x1234);
          const int slot = static_cast<int>(at % 16);
          table->store_kv(type, all.data() + at, all.data() + at + dim, dim, slot,
                          reinterpret_cast<std::byte*>(k.data()), reinterpret_cast<std::byte*>(v.data()));
          for (int d = 0; d < dim; ++d) {
            for (int s = 0; s < 16; ++s) {
              ASSERT_EQ(k[16 * d + s], s == slot ? rounded(all[at + d]) : 0x1234) << table->name;
              ASSERT_EQ(v[dim * s + d], s == slot ? rounded(all[at + dim + d]) : 0x1234) << table->name;
            }
          }
        }
      }
    }
  }
}

TEST(RowKernelsTest, StoreKvAsBF16KeepsANanAndRoundsPastTheRangeToInfinity) {
  const std::vector<uint32_t> bits = {0x7fffffff, 0xffffffff, 0x7f800001, 0x7f800000, 0xff800000, 0x7f7fffff,
                                      0x7f7f8000, 0x7f7f7fff, 0x3f808000, 0x3f818000, 0x3f808001, 0x00008000};
  const std::vector<uint16_t> expected = {0x7fff, 0xffff, 0x7fc0, 0x7f80, 0xff80, 0x7f80,
                                          0x7f80, 0x7f7f, 0x3f80, 0x3f82, 0x3f81, 0x0000};
  const int dim = static_cast<int>(bits.size());
  std::vector<float> x(bits.size());
  std::memcpy(x.data(), bits.data(), sizeof(float) * bits.size());
  std::vector<const KernelTable*> tables = SimdTables();
  tables.push_back(ScalarKernels());
  for (const KernelTable* table : tables) {
    std::vector<uint16_t> k(16 * dim), v(16 * dim);
    table->store_kv(KvType::kBF16, x.data(), x.data(), dim, 0, reinterpret_cast<std::byte*>(k.data()),
                    reinterpret_cast<std::byte*>(v.data()));
    for (int d = 0; d < dim; ++d) {
      EXPECT_EQ(k[16 * d], expected[d]) << table->name << " " << d;
      EXPECT_EQ(v[d], expected[d]) << table->name << " " << d;
    }
  }
}

struct StoredRow {
  std::vector<std::byte> k, v;
};

// k and v [dim] as position `slot` of a Q8_0 block of bytes 0x5a.
StoredRow StoreQ8_0(const KernelTable& table, const std::vector<float>& k, const std::vector<float>& v,
                    int slot) {
  const int dim = static_cast<int>(k.size());
  const std::vector<std::byte> fill(KvHeadBlockBytes(KvType::kQ8_0, dim) + 64, std::byte{0x5a});
  StoredRow row = {fill, fill};
  table.store_kv(KvType::kQ8_0, k.data(), v.data(), dim, slot, row.k.data(), row.v.data());
  return row;
}

struct StoredBlock {
  std::vector<int> codes;
  float scale;
};

// Dimensions [32 b, 32 b + 32) of position `slot` of a Q8_0 block of K or of V.
StoredBlock Load(const std::vector<std::byte>& bytes, int dim, int slot, int b, bool is_key) {
  StoredBlock block;
  for (int d = 32 * b; d < 32 * b + 32; ++d) {
    block.codes.push_back(static_cast<int8_t>(bytes[is_key ? 16 * d + slot : dim * slot + d]));
  }
  uint16_t half;
  std::memcpy(&half, &bytes[16 * dim + 2 * (16 * b + slot)], sizeof half);
  block.scale = HalfToFloat(half);
  return block;
}

TEST(RowKernelsTest, StoreKvQ8_0IsTheSameInEveryTableAndWritesItsPositionAlone) {
  const std::vector<float> all = AllKinds(kTestSeed);
  for (int dim : {32, 64, 96, 128}) {
    for (size_t at = 0; at + 2 * dim < all.size(); at += 499) {
      const std::vector<float> k(all.begin() + at, all.begin() + at + dim);
      const std::vector<float> v(all.begin() + at + dim, all.begin() + at + 2 * dim);
      const int slot = static_cast<int>(at % 16);
      const StoredRow expected = StoreQ8_0(*ScalarKernels(), k, v, slot);
      for (const KernelTable* table : SimdTables()) {
        const StoredRow row = StoreQ8_0(*table, k, v, slot);
        ASSERT_TRUE(row.k == expected.k && row.v == expected.v) << table->name << " " << dim << " " << at;
      }
      const int codes = 16 * dim;
      for (int i = 0; i < static_cast<int>(expected.k.size()); ++i) {
        const bool scale = i >= codes && i < codes + dim && (i - codes) / 2 % 16 == slot;
        const bool k_code = i < codes && i % 16 == slot;
        const bool v_code = i < codes && i / dim == slot;
        if (!scale && !k_code) {
          ASSERT_EQ(expected.k[i], std::byte{0x5a}) << i;
        }
        if (!scale && !v_code) {
          ASSERT_EQ(expected.v[i], std::byte{0x5a}) << i;
        }
      }
    }
  }
}

TEST(RowKernelsTest, StoreKvQ8_0ErrsByHalfAStep) {
  std::mt19937_64 rng(kTestSeed);
  std::normal_distribution<float> normal;
  for (float magnitude : {1e-9f, 1e-7f, 1e-5f, 1e-3f, 0.1f, 1.0f, 30.0f, 1e4f, 1e6f}) {
    std::vector<float> k(64), v(64);
    for (std::vector<float>* x : {&k, &v}) {
      for (float& value : *x) value = normal(rng) * magnitude;
    }
    const StoredRow row = StoreQ8_0(*ScalarKernels(), k, v, 3);
    for (bool is_key : {true, false}) {
      for (int b = 0; b < 2; ++b) {
        const StoredBlock block = Load(is_key ? row.k : row.v, 64, 3, b, is_key);
        const float* const x = (is_key ? k : v).data() + 32 * b;
        float maximum = 0;
        for (int i = 0; i < 32; ++i) maximum = std::max(maximum, std::abs(x[i]));
        EXPECT_EQ(block.scale, HalfToFloat(FloatToHalf(maximum / 127.0f)));
        for (int i = 0; i < 32; ++i) {
          EXPECT_LE(std::abs(block.codes[i]), 127);
          const double error = std::abs(double{x[i]} - double{block.scale} * block.codes[i]);
          // The second term holds where f16 holds the scale badly: it is off by up to 2^-25.
          EXPECT_LE(error, std::max(0.5001 * block.scale, 127 * 0x1p-25)) << magnitude << " " << x[i];
        }
      }
    }
  }
}

TEST(RowKernelsTest, StoreKvQ8_0RoundsTiesToEven) {
  std::vector<float> x = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f};  // scale 1
  x.resize(32);
  const StoredRow row = StoreQ8_0(*ScalarKernels(), x, x, 0);
  const std::vector<int> expected = {127, 0, 2, 2, 0, -2, -2, 126, -126};
  for (bool is_key : {true, false}) {
    const StoredBlock block = Load(is_key ? row.k : row.v, 32, 0, 0, is_key);
    EXPECT_EQ(block.scale, 1.0f);
    EXPECT_EQ(std::vector<int>(block.codes.begin(), block.codes.begin() + 9), expected);
  }
}

TEST(RowKernelsTest, StoreKvQ8_0KeepsFiniteWhatIsFiniteAndMarksTheRest) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float largest = 127 * 65504.0f;
  for (float worst : {0.0f, -0.0f, 1e-45f, 1e-31f, 127 * 0x1p-26f, 127 * 0x1p-24f, largest, 127 * 65519.0f,
                      127 * 65521.0f, 3e38f, -3e38f, inf, -inf, nan, -nan}) {
    std::vector<float> x(32, std::isfinite(worst) ? worst / 4 : 1.0f);
    x[17] = worst;
    const StoredRow row = StoreQ8_0(*ScalarKernels(), x, x, 9);
    for (bool is_key : {true, false}) {
      const StoredBlock block = Load(is_key ? row.k : row.v, 32, 9, 0, is_key);
      if (std::abs(worst) < 127 * 65520.0f) {  // what f16 rounds to 65504
        EXPECT_TRUE(std::isfinite(block.scale)) << worst;
        EXPECT_NEAR(block.scale * block.codes[17], worst, std::abs(worst) * 0x1p-11 + 4e-6) << worst;
      } else {
        EXPECT_TRUE(std::isnan(block.scale)) << worst;
        EXPECT_EQ(block.codes, std::vector<int>(32, 0));
      }
    }
  }
}

}  // namespace
}  // namespace moepool
