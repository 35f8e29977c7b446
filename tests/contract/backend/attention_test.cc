// Attention over the paged cache: against f64, and the same bits however a sequence is cut into steps,
// wherever its blocks lie, whatever shares the step.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/contract/backend/backend_contract.h"

namespace moepool {
namespace {

struct Setup {
  AttentionShape shape;
  KvType type = KvType::kF16;
  int length = 0;
};

int RowFloats(const AttentionShape& s) { return (s.heads + 2 * s.kv_heads) * s.head_dim; }

// A sequence with its q, k, v [length, RowFloats] and rotary tables, and a cache in which its blocks are
// scattered.
class Sequence {
 public:
  Sequence(const Setup& setup, uint64_t seed)
      : setup_(setup), qkv_(Normal(static_cast<size_t>(setup.length * RowFloats(setup.shape)), seed)) {
    for (int position = 0; position < setup.length; ++position) {
      for (int i = 0; i < setup.shape.rope_dims / 2; ++i) {
        const double angle = position * std::pow(10000.0, -2.0 * i / setup.shape.rope_dims);
        cos_.push_back(static_cast<float>(std::cos(angle)));
        sin_.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
  const Setup& setup() const { return setup_; }
  const std::vector<float>& qkv() const { return qkv_; }
  const std::vector<float>& cos() const { return cos_; }
  const std::vector<float>& sin() const { return sin_; }

 private:
  Setup setup_;
  std::vector<float> qkv_, cos_, sin_;
};

class CacheMemory {
 public:
  CacheMemory(Backend* backend, const AttentionShape& shape, KvType type, int blocks, float fill) {
    const int64_t elements = int64_t{blocks} * shape.kv_heads * shape.head_dim * kKvBlockTokens;
    k_ = DeviceRows::Floats(backend, elements);
    v_ = DeviceRows::Floats(backend, elements);
    std::fill_n(k_->f32(), elements, fill);
    std::fill_n(v_->f32(), elements, fill);
    layer = {type, k_->data(), v_->data()};
  }
  KvLayer layer;

 private:
  std::unique_ptr<Buffer> k_, v_;
};

// Runs rows [begin, end) of each sequence as one step; returns the outputs, sequence after sequence.
std::vector<float> Step(Backend* backend, const std::vector<const Sequence*>& sequences, const KvLayer& kv,
                        const std::vector<std::vector<int32_t>>& tables, int begin, int end) {
  const AttentionShape& shape = sequences[0]->setup().shape;
  const int width = RowFloats(shape), half = shape.rope_dims / 2;
  std::vector<float> qkv, cos, sin;
  std::vector<int32_t> position;
  std::vector<const int32_t*> table;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const Sequence& seq = *sequences[s];
    for (int p = begin; p < std::min(end, seq.setup().length); ++p) {
      qkv.insert(qkv.end(), seq.qkv().begin() + p * width, seq.qkv().begin() + (p + 1) * width);
      cos.insert(cos.end(), seq.cos().begin() + p * half, seq.cos().begin() + (p + 1) * half);
      sin.insert(sin.end(), seq.sin().begin() + p * half, seq.sin().begin() + (p + 1) * half);
      position.push_back(p);
      table.push_back(tables[s].data());
    }
  }
  const AttentionBatch batch = {static_cast<int>(position.size()), position.data(), table.data(), cos.data(),
                                sin.data()};
  std::vector<float> out(position.size() * shape.heads * shape.head_dim);
  backend->Trunk().Attention(shape, batch, kv, qkv.data(), out.data());
  return out;
}

std::vector<int32_t> Shuffled(int blocks, uint64_t seed) {
  std::vector<int32_t> table(blocks);
  std::iota(table.begin(), table.end(), 0);
  std::mt19937_64 rng(seed);
  std::shuffle(table.begin(), table.end(), rng);
  return table;
}

// The whole sequence in chunks of `chunk` rows; outputs in order of position.
std::vector<float> RunChunks(Backend* backend, const Sequence& seq, int chunk, uint64_t table_seed,
                             float fill = 0) {
  const int blocks = seq.setup().length / kKvBlockTokens + 1 + 5;
  const CacheMemory cache(backend, seq.setup().shape, seq.setup().type, blocks, fill);
  const std::vector<std::vector<int32_t>> tables = {Shuffled(blocks, table_seed)};
  std::vector<float> out;
  for (int begin = 0; begin < seq.setup().length; begin += chunk) {
    const std::vector<float> part = Step(backend, {&seq}, cache.layer, tables, begin, begin + chunk);
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

class AttentionTest : public BackendContract {
 protected:
  std::unique_ptr<Backend> reference_ = Make({"scalar", 1});
};
INSTANTIATE_TEST_SUITE_P(Cpu, AttentionTest, ::testing::ValuesIn(BackendCases()), CaseName);

AttentionShape Shape(int heads, int kv_heads, int head_dim, RopeKind rope, int rope_dims) {
  AttentionShape s;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.head_dim = head_dim;
  s.rope = rope;
  s.rope_dims = rope_dims;
  s.norm_eps = 1e-6f;
  return s;
}

TEST_P(AttentionTest, PrefillDecodeAndEveryChunkingAreTheSame) {
  for (KvType type : {KvType::kF16, KvType::kF32}) {
    for (int length : {1, 15, 16, 17, 33}) {
      const Sequence seq({Shape(6, 2, 20, RopeKind::kNeox, 12), type, length}, kTestSeed + length);
      const std::vector<float> expected = RunChunks(reference_.get(), seq, 1, 1);
      for (int chunk : {1, 3, 16, length}) {
        EXPECT_TRUE(SameFloats(RunChunks(backend_.get(), seq, chunk, 7 + chunk), expected))
            << length << " by " << chunk;
      }
      // What lay in the cache before does not matter.
      EXPECT_TRUE(SameFloats(RunChunks(backend_.get(), seq, 5, 3, std::nanf("")), expected)) << length;
    }
  }
}

TEST_P(AttentionTest, SplitsOf256AreTheSameInPrefillAndDecode) {
  const Sequence seq({Shape(3, 1, 8, RopeKind::kInterleaved, 8), KvType::kF16, 515}, kTestSeed);
  const std::vector<float> expected = RunChunks(reference_.get(), seq, 515, 1);
  for (int chunk : {1, 255, 256, 257, 515}) {
    EXPECT_TRUE(SameFloats(RunChunks(backend_.get(), seq, chunk, chunk), expected)) << chunk;
  }
}

TEST_P(AttentionTest, SequencesDoNotTouchOneAnother) {
  const AttentionShape shape = Shape(4, 4, 16, RopeKind::kInterleaved, 16);
  const Sequence a({shape, KvType::kF16, 40}, 1), b({shape, KvType::kF16, 19}, 2),
      c({shape, KvType::kF16, 1}, 3);
  const CacheMemory cache(backend_.get(), shape, KvType::kF16, 12, 0);
  const std::vector<std::vector<int32_t>> tables = {{3, 1, 11}, {0, 7}, {5}};
  const std::vector<float> together = Step(backend_.get(), {&a, &b, &c}, cache.layer, tables, 0, 40);
  std::vector<float> expected;
  for (const Sequence* s : {&a, &b, &c}) {
    const std::vector<float> alone = RunChunks(reference_.get(), *s, s->setup().length, 9);
    expected.insert(expected.end(), alone.begin(), alone.end());
  }
  EXPECT_TRUE(SameFloats(together, expected));
}

// By the definition, in f64, on the values that the cache holds.
std::vector<double> Reference(const Sequence& seq) {
  const AttentionShape& s = seq.setup().shape;
  const int width = RowFloats(s), dim = s.head_dim, pairs = s.rope_dims / 2;
  std::vector<double> x(seq.qkv().begin(), seq.qkv().end());
  for (int p = 0; p < seq.setup().length; ++p) {
    for (int h = 0; h < s.heads + s.kv_heads; ++h) {
      double* const head = x.data() + p * width + h * dim;
      const float* const norm = h < s.heads ? s.q_norm : s.k_norm;
      if (norm != nullptr) {
        double squares = 0;
        for (int d = 0; d < dim; ++d) squares += head[d] * head[d];
        for (int d = 0; d < dim; ++d) head[d] *= norm[d] / std::sqrt(squares / dim + s.norm_eps);
      }
      for (int i = 0; i < pairs; ++i) {
        const double c = seq.cos()[p * pairs + i], n = seq.sin()[p * pairs + i];
        double& a = head[s.rope == RopeKind::kNeox ? i : 2 * i];
        double& b = head[s.rope == RopeKind::kNeox ? i + pairs : 2 * i + 1];
        const double a0 = a, b0 = b;
        a = a0 * c - b0 * n;
        b = a0 * n + b0 * c;
      }
    }
  }
  std::vector<double> out;
  for (int p = 0; p < seq.setup().length; ++p) {
    for (int h = 0; h < s.heads; ++h) {
      const int g = h / (s.heads / s.kv_heads);
      std::vector<double> weight(p + 1), value(dim);
      double sum = 0;
      for (int j = 0; j <= p; ++j) {
        double score = 0;
        for (int d = 0; d < dim; ++d)
          score += x[p * width + h * dim + d] * x[j * width + (s.heads + g) * dim + d];
        sum += weight[j] = std::exp(score / std::sqrt(dim));
      }
      for (int j = 0; j <= p; ++j) {
        for (int d = 0; d < dim; ++d) {
          value[d] += weight[j] / sum * x[j * width + (s.heads + s.kv_heads + g) * dim + d];
        }
      }
      out.insert(out.end(), value.begin(), value.end());
    }
  }
  return out;
}

TEST_P(AttentionTest, IsNearF64) {
  const std::vector<float> q_norm = Normal(80, 5), k_norm = Normal(80, 6);
  for (RopeKind rope : {RopeKind::kInterleaved, RopeKind::kNeox}) {
    for (int dim : {64, 80}) {
      for (bool norms : {false, true}) {
        AttentionShape shape = Shape(6, 3, dim, rope, dim - 16);
        if (norms) {
          shape.q_norm = q_norm.data();
          shape.k_norm = k_norm.data();
        }
        for (KvType type : {KvType::kF32, KvType::kF16}) {
          const Sequence seq({shape, type, 70}, kTestSeed);
          const std::vector<float> out = RunChunks(backend_.get(), seq, 33, 4);
          const std::vector<double> expected = Reference(seq);
          ASSERT_EQ(out.size(), expected.size());
          // F16 rounds keys and values by up to 2^-11 of values near 3.
          const double tolerance = type == KvType::kF32 ? 3e-5 : 3e-2;
          for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], tolerance) << i;
        }
      }
    }
  }
}

TEST_P(AttentionTest, TheFirstRowSeesItsOwnRoundedValue) {
  const Sequence seq({Shape(2, 1, 32, RopeKind::kNeox, 0), KvType::kF16, 1}, kTestSeed);
  const std::vector<float> out = RunChunks(backend_.get(), seq, 1, 1);
  for (int h = 0; h < 2; ++h) {
    for (int d = 0; d < 32; ++d) EXPECT_EQ(out[h * 32 + d], HalfToFloat(FloatToHalf(seq.qkv()[3 * 32 + d])));
  }
}

}  // namespace
}  // namespace moepool
