// Attention on the device, under the emulation, against the CPU's scalar kernels bit for bit.
#include <tuple>

#include "tests/unit/kernels/cuda/attention_scenarios.h"

namespace moepool {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class CudaAttentionTest : public ::testing::Test {
 protected:
  void ExpectSame(const Scenario& scenario) {
    const StepResult expected = RunStep(scenario, OnCpu(cpu_.get()));
    ASSERT_TRUE(SameResults(RunStep(scenario, OnDevice(&context_, &attention_)), expected))
        << Describe(scenario);
    ASSERT_TRUE(SameResults(RunStep(scenario, Prepared(&context_, &attention_)), expected))
        << "prepared: " << Describe(scenario);
  }

  const std::unique_ptr<Backend> cpu_ = ScalarBackend();
  EmulatedDevice device_;
  CudaContext context_{&device_};
  CudaAttention attention_{&context_};
};

class CudaAttentionTypesTest : public CudaAttentionTest, public ::testing::WithParamInterface<KvType> {
 protected:
  bool Takes(int head_dim) const { return GetParam() != KvType::kQ8_0 || head_dim % 32 == 0; }
};
INSTANTIATE_TEST_SUITE_P(CacheTypes, CudaAttentionTypesTest,
                         ::testing::Values(KvType::kF16, KvType::kBF16, KvType::kF32, KvType::kQ8_0),
                         [](const auto& info) {
                           return info.param == KvType::kF16    ? "F16"
                                  : info.param == KvType::kBF16 ? "BF16"
                                  : info.param == KvType::kF32  ? "F32"
                                                                : "Q8_0";
                         });

TEST_P(CudaAttentionTypesTest, DecodeIsTheCpus) {
  for (int dim : {32, 64, 80, 96, 128, 256}) {
    if (!Takes(dim)) continue;
    for (int ratio : {1, 4, 7}) {
      Scenario s = {MakeShape(2 * ratio, 2, dim), GetParam(), {{0, 1}, {15, 16}, {511, 512}}};
      if (dim == 64) s.sequences.push_back({1093, 1094});
      ASSERT_NO_FATAL_FAILURE(ExpectSame(s));
    }
  }
}

TEST_P(CudaAttentionTypesTest, PrefillIsTheCpus) {
  for (const auto& [dim, ratio] : {std::pair{32, 1}, {32, 7}, {80, 4}, {128, 4}, {256, 1}}) {
    if (Takes(dim)) {
      ASSERT_NO_FATAL_FAILURE(
          ExpectSame({MakeShape(ratio, 1, dim), GetParam(), {{0, 10}, {250, 270}, {16, 17}, {520, 524}}}));
    }
  }
}

TEST_P(CudaAttentionTypesTest, HeadSizesAndRatiosOfEveryKind) {
  for (int dim : {2, 20, 100, 512}) {
    if (!Takes(dim)) continue;
    for (int ratio : {1, 3, 9, 35}) {
      if (dim == 512 && ratio != 3) continue;
      ASSERT_NO_FATAL_FAILURE(ExpectSame({MakeShape(2 * ratio, 2, dim), GetParam(), {{10, 14}, {255, 258}}}));
    }
  }
}

TEST_P(CudaAttentionTypesTest, WindowsAreTheCpus) {
  for (int window : {1, 17, 256, 300, 4096}) {
    Scenario s = {MakeShape(8, 2, 32), GetParam(), {{530, 531}, {250, 262}, {520, 523}}};
    s.shape.window = window;
    ASSERT_NO_FATAL_FAILURE(ExpectSame(s));
  }
}

TEST_P(CudaAttentionTypesTest, RotationsAndNormsAreTheCpus) {
  for (RopeKind rope : {RopeKind::kNeox, RopeKind::kInterleaved}) {
    for (QkNorm norm : {QkNorm::kNone, QkNorm::kHead, QkNorm::kRow}) {
      for (const auto& [dim, rope_dims] : {std::pair{32, 32}, {96, 24}, {64, 2}, {64, 62}, {32, 0}}) {
        Scenario s = {MakeShape(6, 3, dim), GetParam(), {{17, 18}, {30, 35}}};
        s.shape.rope = rope;
        s.shape.rope_dims = rope_dims;
        s.shape.qk_norm = norm;
        ASSERT_NO_FATAL_FAILURE(ExpectSame(s));
      }
    }
  }
}

// Many KV heads and rows: the splits of a block of rows are one thread block's, one after another.
TEST_F(CudaAttentionTest, ALargePrefillIsTheCpus) {
  ASSERT_NO_FATAL_FAILURE(ExpectSame({MakeShape(256, 256, 4), KvType::kF16, {{250, 260}}}));
}

// Where partial results have no room, splits are merged one after another.
TEST_P(CudaAttentionTypesTest, WithoutPartialResultsItIsTheSame) {
  CudaAttention attention(&context_, 0);
  for (int window : {0, 300}) {
    for (const auto& [heads, kv_heads, dim] : {std::tuple{8, 2, 64}, {2, 2, 32}, {28, 2, 96}}) {
      Scenario s = {MakeShape(heads, kv_heads, dim), GetParam(), {{790, 791}, {505, 516}, {3, 4}}};
      s.shape.window = window;
      const StepResult expected = RunStep(s, OnCpu(cpu_.get()));
      ASSERT_TRUE(SameResults(RunStep(s, OnDevice(&context_, &attention)), expected)) << Describe(s);
    }
  }
}

// Threads run in one of three orders, which one by the count of launches: a step has three launches or four.
TEST_P(CudaAttentionTypesTest, InEveryOrderOfThreads) {
  Scenario s = {MakeShape(8, 2, 32), GetParam(), {{520, 521}, {250, 262}}};
  s.shape.qk_norm = QkNorm::kRow;
  const StepResult expected = RunStep(s, OnCpu(cpu_.get()));
  for (int shift = 0; shift < 3; ++shift) {
    const uint64_t before = device_.launches();
    EXPECT_TRUE(SameResults(RunStep(s, OnDevice(&context_, &attention_)), expected)) << shift;
    for (uint64_t n = device_.launches() - before; n % 3 != 1; ++n) {
      simt::Start<int>([](int) {}, {}, nullptr, 0);
    }
  }
}

TEST_P(CudaAttentionTypesTest, AFaultyRowStaysAlone) {
  struct Case {
    QkNorm norm;
    int row;
    int at;  // in the row
    float value;
  };
  const int q = 5, k = 4 * 32 + 7, v = 5 * 32 + 9;
  for (const Case& c : {Case{QkNorm::kNone, 3, q, std::nanf("")},
                        {QkNorm::kNone, 3, k, kInf},
                        {QkNorm::kNone, 2, v, -kInf},
                        {QkNorm::kNone, 2, v, std::nanf("")},
                        {QkNorm::kHead, 3, q, 1e30f},
                        {QkNorm::kHead, 2, k, 1e30f},
                        {QkNorm::kRow, 3, q, 1e30f},
                        {QkNorm::kRow, 2, k, std::nanf("")},
                        {QkNorm::kNone, 2, k, 1e10f},
                        {QkNorm::kNone, 2, v, 1e-30f}}) {
    Scenario s = {MakeShape(4, 1, 32), GetParam(), {{40, 46}, {254, 259}}};
    s.shape.qk_norm = c.norm;
    s.shape.rope_dims = 0;
    const auto edit = [&](StepData* data) { data->qkv()[c.row * data->RowFloats() + c.at] = c.value; };
    const StepResult expected = RunStep(s, OnCpu(cpu_.get()), edit);
    const StepResult got = RunStep(s, OnDevice(&context_, &attention_), edit);
    EXPECT_TRUE(SameFloats(got.out, expected.out)) << c.at << " " << c.value;
    // Rows before it and the other sequence's.
    for (size_t i = 0; i < got.out.size(); ++i) {
      const size_t row = i / (4 * 32);
      if (row < static_cast<size_t>(c.row) || row >= 6) {
        ASSERT_TRUE(std::isfinite(got.out[i])) << c.at << " " << c.value << ", row " << row;
      }
    }
  }
}

// More splits than a warp has lanes; the maximum is in the first of the warp's second round, or anywhere.
TEST_F(CudaAttentionTest, ManySplitsAreTheCpus) {
  Scenario s = {MakeShape(4, 1, 32), KvType::kF16, {{256 * 33 + 3, 256 * 33 + 4}}};
  ASSERT_NO_FATAL_FAILURE(ExpectSame(s));
  s.loud_position = 256 * 32 + 5;
  ASSERT_NO_FATAL_FAILURE(ExpectSame(s));
}

// The norm of a row is finite nowhere where it is not everywhere.
TEST_F(CudaAttentionTest, AnUnusableNormIsTheCpus) {
  for (QkNorm norm : {QkNorm::kHead, QkNorm::kRow}) {
    Scenario s = {MakeShape(8, 2, 32), KvType::kF16, {{3, 5}}};
    s.shape.qk_norm = norm;
    s.unusable_norm = true;
    ASSERT_NO_FATAL_FAILURE(ExpectSame(s));
  }
}

TEST_F(CudaAttentionTest, RandomStepsAreTheCpus) {
  std::mt19937_64 rng(kTestSeed);
  const auto upto = [&](int n) { return static_cast<int>(rng() % static_cast<uint64_t>(n)); };
  for (int round = 0; round < 12; ++round) {
    const int kv_heads = 1 + upto(3);
    Scenario s = {MakeShape(kv_heads * (1 + upto(9)), kv_heads, 32 * (1 + upto(3))),
                  static_cast<KvType>(upto(4)),
                  {},
                  kTestSeed + round};
    s.shape.rope = upto(2) == 0 ? RopeKind::kNeox : RopeKind::kInterleaved;
    s.shape.rope_dims = 2 * upto(s.shape.head_dim / 2 + 1);
    s.shape.qk_norm = static_cast<QkNorm>(upto(3));
    s.shape.window = upto(2) * (1 + upto(600));
    for (int i = upto(4); i >= 0; --i) {
      const int begin = upto(2) * upto(600);
      s.sequences.push_back({begin, begin + 1 + upto(2) * upto(24)});
    }
    ASSERT_NO_FATAL_FAILURE(ExpectSame(s));
  }
}

// Layers of several steps take turns, each on its own data; what they share is copied once a step.
TEST_F(CudaAttentionTest, LayersOfAStepShareWhatWasCopied) {
  struct Layer {
    Scenario scenario;
    uint64_t step;
  };
  std::vector<Layer> layers;
  for (uint64_t round = 0; round < 3; ++round) {
    for (uint64_t step = 1; step <= 6; ++step) {
      Scenario s = {MakeShape(4, 2, 32), KvType::kF16, {{static_cast<int>(90 * step), 600}}, kTestSeed};
      s.sequences[0].end = s.sequences[0].begin + static_cast<int>(step);
      layers.push_back({s, step % 4 == 0 ? 0 : step + 10 * (round / 2)});
    }
  }
  // A layer with another window is of the same step.
  layers.push_back(layers[6]);
  layers.back().scenario.shape.window = 40;
  std::vector<StepResult> expected;
  for (const Layer& layer : layers) expected.push_back(RunStep(layer.scenario, OnCpu(cpu_.get())));
  // All are queued before the first is done.
  std::vector<std::unique_ptr<StepData>> data;
  std::vector<std::vector<float>> out;
  for (const Layer& layer : layers) {
    data.push_back(std::make_unique<StepData>(layer.scenario));
    out.emplace_back(static_cast<size_t>(data.back()->rows()) * data.back()->OutFloats());
    AttentionBatch batch = data.back()->batch();
    batch.step = layer.step;
    std::vector<float> cos(batch.cos, batch.cos + batch.rows * 16);
    std::vector<int32_t> position(batch.position, batch.position + batch.rows);
    batch.cos = cos.data();
    batch.position = position.data();
    attention_.Run(data.back()->shape(), batch, data.back()->layer(), data.back()->qkv().data(),
                   out.back().data());
    // The caller's arrays are its own again.
    std::fill(cos.begin(), cos.end(), std::nanf(""));
    std::fill(position.begin(), position.end(), -1);
  }
  context_.Settle();
  for (size_t i = 0; i < layers.size(); ++i) {
    EXPECT_TRUE(SameResults({out[i], data[i]->Cache()}, expected[i])) << i;
  }
}

// What is prepared replaces what calls of the same step have copied for themselves, and serves them.
TEST_F(CudaAttentionTest, AStepIsPreparedAfterItsFirstCall) {
  const Scenario s = {MakeShape(4, 2, 32), KvType::kF16, {{520, 523}, {90, 91}, {300, 301}}};
  const StepResult expected = RunStep(s, OnCpu(cpu_.get()));
  for (uint64_t step = 1; step < 3; ++step) {
    const auto twice = [&](const AttentionShape& shape, AttentionBatch batch, const KvLayer& kv, float* qkv,
                           float* out) {
      batch.step = step;
      const std::vector<float> before(qkv, qkv + static_cast<size_t>(batch.rows) * 8 * 32);
      attention_.Run(shape, batch, kv, qkv, out);
      const AttentionExtent extent = attention_.Prepare(shape, batch);
      EXPECT_EQ(extent, RoundUpExtent(extent, batch.rows, 1000));
      context_.Settle();
      std::copy(before.begin(), before.end(), qkv);
      attention_.Run(shape, batch, kv, qkv, out);
      EXPECT_EQ(attention_.Prepare(shape, batch), extent);
      context_.Settle();
    };
    EXPECT_TRUE(SameResults(RunStep(s, twice), expected));
  }
}

TEST_F(CudaAttentionTest, NoRowsAreNoWork) {
  attention_.Run(MakeShape(2, 1, 32), {}, {}, nullptr, nullptr);
  EXPECT_EQ(device_.launches(), 0u);
}

}  // namespace
}  // namespace moepool
