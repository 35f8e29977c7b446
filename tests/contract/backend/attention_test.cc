// Attention over the paged cache: the same bits however a sequence is cut into steps, wherever its blocks
// lie, whatever shares the step, whatever lies where no row looks.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/contract/backend/attention_testing.h"

namespace moepool {
namespace {

class AttentionTest : public BackendContract {
 protected:
  std::unique_ptr<Backend> reference_ = Reference();
};
INSTANTIATE_TEST_SUITE_P(Backends, AttentionTest, ::testing::ValuesIn(BackendCases()), CaseName);

TEST_P(AttentionTest, PrefillDecodeAndEveryChunkingAreTheSame) {
  for (KvType type : kKvTypes) {
    const int dim = type == KvType::kQ8_0 ? 32 : 20;
    for (int length : {1, 15, 16, 17, 33}) {
      const Sequence seq({Shape(6, 2, dim, RopeKind::kNeox, 12), type, length}, kTestSeed + length);
      const std::vector<float> expected = RunChunks(reference_.get(), seq, 1, 1);
      for (int chunk : {1, 3, 16, length}) {
        EXPECT_TRUE(SameFloats(RunChunks(backend_.get(), seq, chunk, 7 + chunk), expected))
            << length << " by " << chunk;
      }
      // What lay in the cache before does not matter.
      EXPECT_TRUE(SameFloats(RunChunks(backend_.get(), seq, 5, 3, kPoison), expected)) << length;
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

// Long enough that threads share out the splits of one sequence, or several sequences, and merge.
TEST_P(AttentionTest, DecodeAtLengthIsTheSameAloneAndTogether) {
  const int length = 540, prefill = 537;
  for (int window : {0, 300}) {
    AttentionShape shape = Shape(4, 2, 64, RopeKind::kNeox, 64);
    shape.window = window;
    std::vector<Sequence> sequences;
    std::vector<std::vector<float>> expected;
    std::vector<std::vector<int32_t>> tables(4);
    for (int s = 0; s < 4; ++s) {
      sequences.push_back(Sequence({shape, KvType::kF16, length}, kTestSeed + s));
      expected.push_back(RunChunks(reference_.get(), sequences.back(), length, 1));
    }
    const std::vector<int32_t> blocks = Shuffled(4 * 34, 5);
    for (int i = 0; i < 4 * 34; ++i) tables[i % 4].push_back(blocks[i]);
    for (int count : {1, 4}) {
      std::vector<const Sequence*> together;
      for (int s = 0; s < count; ++s) together.push_back(&sequences[s]);
      const CacheMemory cache(backend_.get(), shape, KvType::kF16, 4 * 34, kPoison);
      Step(backend_.get(), together, cache.layer, tables, 0, prefill);
      for (int p = prefill; p < length; ++p) {
        const std::vector<float> out = Step(backend_.get(), together, cache.layer, tables, p, p + 1);
        const int row = 4 * 64;
        for (int s = 0; s < count; ++s) {
          const std::vector<float> got(out.begin() + s * row, out.begin() + (s + 1) * row);
          const std::vector<float> want(expected[s].begin() + p * row, expected[s].begin() + (p + 1) * row);
          ASSERT_TRUE(SameFloats(got, want)) << s << " of " << count << " at " << p << ", window " << window;
        }
      }
    }
  }
}

// So many that a thread takes all heads of a sequence; prefill in which a step begins within a block of keys.
TEST_P(AttentionTest, ManyShortSequencesAreTheSameAloneAndTogether) {
  const int count = 67, length = 21;
  for (KvType type : kKvTypes) {
    const AttentionShape shape = Shape(4, 2, 32, RopeKind::kNeox, 32);
    std::vector<Sequence> sequences;
    for (int s = 0; s < count; ++s) {
      sequences.push_back(Sequence({shape, type, length - s % 3}, kTestSeed + s));
    }
    std::vector<const Sequence*> all;
    std::vector<std::vector<int32_t>> tables(count);
    const std::vector<int32_t> blocks = Shuffled(2 * count, 5);
    for (int s = 0; s < count; ++s) {
      all.push_back(&sequences[s]);
      tables[s] = {blocks[2 * s], blocks[2 * s + 1]};
    }
    const CacheMemory cache(backend_.get(), shape, type, 2 * count, kPoison);
    std::vector<std::vector<float>> got(count);
    const int row = 4 * 32;
    for (const auto& [begin, end] : {std::pair{0, 7}, {7, 18}, {18, 19}, {19, 20}, {20, 21}}) {
      const std::vector<float> out = Step(backend_.get(), all, cache.layer, tables, begin, end);
      auto next = out.begin();
      for (int s = 0; s < count; ++s) {
        const int rows = std::max(0, std::min(end, sequences[s].setup().length) - begin);
        got[s].insert(got[s].end(), next, next + rows * row);
        next += rows * row;
      }
    }
    for (int s = 0; s < count; ++s) {
      EXPECT_TRUE(SameFloats(got[s], RunChunks(reference_.get(), sequences[s], length, 1))) << s;
    }
  }
}

TEST_P(AttentionTest, SequencesDoNotTouchOneAnother) {
  const AttentionShape shape = Shape(4, 4, 16, RopeKind::kInterleaved, 16);
  const Sequence a({shape, KvType::kF16, 40}, 1), b({shape, KvType::kF16, 19}, 2),
      c({shape, KvType::kF16, 1}, 3);
  const CacheMemory cache(backend_.get(), shape, KvType::kF16, 12, {});
  const std::vector<std::vector<int32_t>> tables = {{3, 1, 11}, {0, 7}, {5}};
  const std::vector<float> together = Step(backend_.get(), {&a, &b, &c}, cache.layer, tables, 0, 40);
  std::vector<float> expected;
  for (const Sequence* s : {&a, &b, &c}) {
    const std::vector<float> alone = RunChunks(reference_.get(), *s, s->setup().length, 9);
    expected.insert(expected.end(), alone.begin(), alone.end());
  }
  EXPECT_TRUE(SameFloats(together, expected));
}

TEST_P(AttentionTest, WindowsAreTheSameInEveryChunking) {
  for (KvType type : kKvTypes) {
    AttentionShape shape = Shape(2, 1, 32, RopeKind::kNeox, 32);
    const int length = 530;
    std::vector<float> unlimited;
    for (int window : {0, 1, 16, 17, 256, 257, 300, 4096}) {
      if (type != KvType::kF16 && window != 0 && window != 257) continue;
      shape.window = window;
      const Sequence seq({shape, type, length}, kTestSeed);
      // In one chunk nothing is freed.
      const std::vector<float> expected = RunChunks(reference_.get(), seq, length, 1);
      for (int chunk : {1, 7, 64, length}) {
        ASSERT_TRUE(SameFloats(RunChunks(backend_.get(), seq, chunk, 3 + chunk), expected))
            << window << " by " << chunk;
      }
      if (window == 0) unlimited = expected;
      // A window changes nothing up to its size, and each row after.
      const int row_floats = 2 * 32;
      for (int p = 0; p < length; ++p) {
        const bool same =
            std::equal(expected.begin() + p * row_floats, expected.begin() + (p + 1) * row_floats,
                       unlimited.begin() + p * row_floats);
        ASSERT_EQ(same, window == 0 || p < window) << window << " at " << p;
      }
    }
  }
}

// One value of row 2 is replaced; that row and the later ones must not be finite, the earlier ones must be.
TEST_P(AttentionTest, AnUnusableValueShowsInEveryRowThatSeesIt) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const std::vector<float> ones(2 * 32, 1.0f);
  const int q = 5, k = 2 * 32 + 5, v = 3 * 32 + 5;  // of a row
  struct Case {
    KvType type;
    QkNorm norm;
    int at;
    float value;
  };
  std::vector<Case> cases;
  for (KvType type : kKvTypes) {
    for (int at : {k, v}) cases.push_back({type, QkNorm::kNone, at, nan});
    for (QkNorm norm : {QkNorm::kHead, QkNorm::kRow}) cases.push_back({type, norm, k, 1e30f});
  }
  for (int at : {k, v}) {
    for (float value : {inf, -inf, 1e10f, -1e10f}) cases.push_back({KvType::kQ8_0, QkNorm::kNone, at, value});
  }
  for (const Case& c : cases) {
    AttentionShape shape = Shape(2, 1, 32, RopeKind::kNeox, 0);
    shape.qk_norm = c.norm;
    shape.q_norm = shape.k_norm = ones.data();
    Sequence seq({shape, c.type, 5}, kTestSeed);
    seq.Set(2, c.at, c.value);
    const std::vector<float> out = RunChunks(backend_.get(), seq, 5, 1);
    for (int p = 0; p < 5; ++p) {
      const auto begin = out.begin() + p * 2 * 32;
      const bool finite = std::all_of(begin, begin + 2 * 32, [](float x) { return std::isfinite(x); });
      EXPECT_EQ(finite, p < 2) << static_cast<int>(c.type) << " " << c.at << " " << c.value << " row " << p;
    }
  }
  // A query concerns its own row alone.
  AttentionShape shape = Shape(2, 1, 32, RopeKind::kNeox, 0);
  shape.qk_norm = QkNorm::kRow;
  shape.q_norm = shape.k_norm = ones.data();
  Sequence seq({shape, KvType::kF16, 5}, kTestSeed);
  seq.Set(2, q, 1e30f);
  const std::vector<float> out = RunChunks(backend_.get(), seq, 5, 1);
  for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isfinite(out[i]), i / 64 != 2) << i;
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
