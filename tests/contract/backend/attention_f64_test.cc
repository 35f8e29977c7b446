// Attention and what it stores against the definition in f64, within bounds that follow from the arithmetic.
#include <algorithm>
#include <cmath>

#include "tests/contract/backend/attention_testing.h"

namespace moepool {
namespace {

class AttentionF64Test : public BackendContract {};
INSTANTIATE_TEST_SUITE_P(Backends, AttentionF64Test, ::testing::ValuesIn(BackendCases()), CaseName);

// Rows after norm and rotation, in f64.
std::vector<double> Projected(const Sequence& seq) {
  const AttentionShape& s = seq.setup().shape;
  const int width = RowFloats(s), dim = s.head_dim, pairs = s.rope_dims / 2;
  std::vector<double> x(seq.qkv().begin(), seq.qkv().end());
  const auto normalize = [&](double* v, int n, const float* weight) {
    double squares = 0;
    for (int i = 0; i < n; ++i) squares += v[i] * v[i];
    for (int i = 0; i < n; ++i) v[i] *= weight[i] / std::sqrt(squares / n + s.norm_eps);
  };
  for (int p = 0; p < seq.setup().length; ++p) {
    double* const row = x.data() + p * width;
    if (s.qk_norm == QkNorm::kRow) {
      normalize(row, s.heads * dim, s.q_norm);
      normalize(row + s.heads * dim, s.kv_heads * dim, s.k_norm);
    }
    for (int h = 0; h < s.heads + s.kv_heads; ++h) {
      double* const head = row + h * dim;
      if (s.qk_norm == QkNorm::kHead) normalize(head, dim, h < s.heads ? s.q_norm : s.k_norm);
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
  return x;
}

// By how much the cache may round value i of x [dim].
double Rounding(KvType type, const double* x, int i) {
  if (type == KvType::kF32) return 0;
  if (type == KvType::kBF16) return std::abs(x[i]) * 0x1p-8;
  if (type == KvType::kF16) return std::abs(x[i]) * 0x1p-11 + 0x1p-25;
  double maximum = 0;
  for (int d = i / 32 * 32; d < i / 32 * 32 + 32; ++d) maximum = std::max(maximum, std::abs(x[d]));
  return maximum / 127 * 0.5 * (1 + 0x1p-10) + 127 * 0x1p-25;
}

// Runs the sequence in one step. Expects that what the cache holds is the projection, rounded as its type
// allows, and that the outputs are attention by definition over what the cache holds.
void ExpectNearF64(Backend* backend, const Sequence& seq) {
  const AttentionShape& s = seq.setup().shape;
  const int dim = s.head_dim, width = RowFloats(s), length = seq.setup().length;
  const KvType type = seq.setup().type;
  const CacheMemory cache(backend, s, type, length / 16 + 3, {});
  const std::vector<int32_t> table = Shuffled(length / 16 + 3, 4);
  const std::vector<float> out = Step(backend, {&seq}, cache.layer, {table}, 0, length);
  const std::vector<double> x = Projected(seq);

  // u is half a unit in the last place. A norm over n values errs by under (n / 16 + 12) u of its result, a
  // rotation by under 4 u of the pair's length.
  const double u = 0x1p-24;
  const int normed = s.qk_norm == QkNorm::kNone ? 0 : s.qk_norm == QkNorm::kHead ? dim : s.heads * dim;
  const double projection = (normed > 0 ? normed / 16 + 12 : 0) * u + 4 * u;
  const auto k = [&](int p, int g, int d) { return cache.K(table[p / 16], p % 16, g, d); };
  const auto v = [&](int p, int g, int d) { return cache.V(table[p / 16], p % 16, g, d); };
  const auto norm2 = [&](const auto& at) {
    double squares = 0;
    for (int d = 0; d < dim; ++d) squares += at(d) * at(d);
    return std::sqrt(squares);
  };
  for (int p = 0; p < length; ++p) {
    for (int g = 0; g < s.kv_heads; ++g) {
      const double* const key = x.data() + p * width + (s.heads + g) * dim;
      const double* const value = key + s.kv_heads * dim;
      const double noise = projection * norm2([&](int d) { return key[d]; });
      for (int d = 0; d < dim; ++d) {
        ASSERT_NEAR(k(p, g, d), key[d], 2 * noise + Rounding(type, key, d)) << p << " " << d;
        ASSERT_NEAR(v(p, g, d), value[d], Rounding(type, value, d)) << p << " " << d;
      }
    }
    for (int h = 0; h < s.heads; ++h) {
      const int g = h / (s.heads / s.kv_heads);
      const double* const q = x.data() + p * width + h * dim;
      const int first = s.window > 0 ? std::max(0, p - s.window + 1) : 0;
      std::vector<double> weight(p + 1), mean(dim);
      double sum = 0, largest_score = 0, largest_value = 0;  // products of lengths, magnitudes
      for (int j = first; j <= p; ++j) {
        double score = 0;
        for (int d = 0; d < dim; ++d) {
          score += q[d] * k(j, g, d);
          largest_value = std::max(largest_value, std::abs(v(j, g, d)));
        }
        const double lengths = norm2([&](int d) { return q[d]; }) * norm2([&](int d) { return k(j, g, d); });
        largest_score = std::max(largest_score, lengths / std::sqrt(dim));
        sum += weight[j] = std::exp(score / std::sqrt(dim));
      }
      for (int j = first; j <= p; ++j) {
        for (int d = 0; d < dim; ++d) mean[d] += weight[j] / sum * v(j, g, d);
      }
      // A score errs by (dim + 5) u and by q's own error, weights relative to the largest by twice that,
      // their mean by twice that again; sums over keys and the merge add the rest.
      const double relative =
          4 * ((dim + 5) * u + projection) * largest_score + (2 * (p + 1 - first) + 32) * u;
      for (int d = 0; d < dim; ++d) {
        ASSERT_NEAR(out[(p * s.heads + h) * dim + d], mean[d], relative * largest_value)
            << "position " << p << " head " << h << " dimension " << d;
      }
    }
  }
}

TEST_P(AttentionF64Test, IsNearF64) {
  const std::vector<float> q_norm = Normal(6 * 96, 5), k_norm = Normal(3 * 96, 6);
  for (RopeKind rope : {RopeKind::kInterleaved, RopeKind::kNeox}) {
    for (int dim : {64, 80, 96}) {
      for (QkNorm qk_norm : {QkNorm::kNone, QkNorm::kHead, QkNorm::kRow}) {
        AttentionShape shape = Shape(6, 3, dim, rope, dim - 16);
        shape.qk_norm = qk_norm;
        shape.q_norm = q_norm.data();
        shape.k_norm = k_norm.data();
        for (KvType type : kKvTypes) {
          if (type == KvType::kQ8_0 && dim % 32 != 0) continue;
          SCOPED_TRACE(::testing::Message() << "type " << static_cast<int>(type) << " dim " << dim << " norm "
                                            << static_cast<int>(qk_norm));
          ASSERT_NO_FATAL_FAILURE(ExpectNearF64(backend_.get(), Sequence({shape, type, 70}, kTestSeed)));
        }
      }
    }
  }
}

TEST_P(AttentionF64Test, AWindowIsNearF64) {
  for (KvType type : kKvTypes) {
    for (int window : {1, 20, 270}) {
      AttentionShape shape = Shape(2, 1, 32, RopeKind::kNeox, 32);
      shape.window = window;
      SCOPED_TRACE(::testing::Message() << "type " << static_cast<int>(type) << " window " << window);
      ASSERT_NO_FATAL_FAILURE(ExpectNearF64(backend_.get(), Sequence({shape, type, 300}, kTestSeed)));
    }
  }
}

}  // namespace
}  // namespace moepool
