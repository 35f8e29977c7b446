// Steps of attention for tests: some sequences, each with a few rows, over a paged cache of random contents;
// run by the CPU's scalar kernels and by a CudaAttention, compared bit for bit.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/backend/backend.h"
#include "common/backend/cuda/cuda_attention.h"
#include "tests/support/simt/emulated_device.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace moepool {

// Rows at positions begin to end - 1 of a sequence; what is before them is in the cache.
struct SequenceRows {
  int begin = 0;
  int end = 0;
};

struct Scenario {
  AttentionShape shape;
  KvType type = KvType::kF16;
  std::vector<SequenceRows> sequences;
  uint64_t seed = kTestSeed;
  bool unusable_norm = false;  // one weight of q's norm is infinite
  int loud_position = -1;      // whose K is large, so that it is the maximum of some queries
};

inline std::string Describe(const Scenario& s) {
  std::string text = "type " + std::to_string(static_cast<int>(s.type)) + ", " +
                     std::to_string(s.shape.heads) + "/" + std::to_string(s.shape.kv_heads) + " heads of " +
                     std::to_string(s.shape.head_dim) + ", rope " + std::to_string(s.shape.rope_dims) +
                     ", norm " + std::to_string(static_cast<int>(s.shape.qk_norm)) + ", window " +
                     std::to_string(s.shape.window) + ", seed " + std::to_string(s.seed) + ", rows";
  for (const SequenceRows& rows : s.sequences) {
    text += " " + std::to_string(rows.begin) + ".." + std::to_string(rows.end);
  }
  return text;
}

inline AttentionShape MakeShape(int heads, int kv_heads, int head_dim) {
  AttentionShape shape;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.rope = RopeKind::kNeox;
  shape.rope_dims = head_dim;
  shape.norm_eps = 1e-6f;
  return shape;
}

// Inputs of a step, and the cache before and after it. Memory that a row may read is finite; the rest,
// between blocks of other sequences and beyond a row's own position included, is NaN.
class StepData {
 public:
  explicit StepData(const Scenario& scenario) : scenario_(scenario), rng_(scenario.seed) {
    const AttentionShape& shape = scenario.shape;
    head_bytes_ = KvHeadBlockBytes(scenario.type, shape.head_dim);
    int blocks = 3;
    for (const SequenceRows& rows : scenario.sequences) blocks += (rows.end - 1) / kKvBlockTokens + 1;
    for (auto* half : {&k_, &v_}) *half = std::make_unique<GuardedFloats>(blocks * BlockBytes() / 4);
    for (auto& half : {k_.get(), v_.get()}) std::memset(half->data(), 0xff, blocks * BlockBytes());
    std::vector<int32_t> free(blocks);
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), rng_);
    for (const SequenceRows& rows : scenario.sequences) {
      std::vector<int32_t> table;
      for (int b = 0; b <= (rows.end - 1) / kKvBlockTokens; ++b) {
        table.push_back(free.back());
        free.pop_back();
      }
      tables_.push_back(std::move(table));
    }
    for (size_t s = 0; s < tables_.size(); ++s) AddSequence(scenario.sequences[s], &tables_[s]);
    for (size_t s = 0; s < tables_.size(); ++s) {
      for (int p = scenario.sequences[s].begin; p < scenario.sequences[s].end; ++p) {
        table_of_row_.push_back(tables_[s].data());
      }
    }
    const int rows = static_cast<int>(positions_.size());
    qkv_ = Normal(rows * RowFloats());
    norms_ = Normal((shape.heads + shape.kv_heads) * shape.head_dim);
    if (scenario.unusable_norm) norms_[3] = std::numeric_limits<float>::infinity();
    for (int i = 0; i < rows * (shape.rope_dims / 2); ++i) {
      const double angle = positions_[i / (shape.rope_dims / 2)] *
                           std::pow(10000.0, -2.0 * (i % (shape.rope_dims / 2)) / shape.rope_dims);
      cos_.push_back(static_cast<float>(std::cos(angle)));
      sin_.push_back(static_cast<float>(std::sin(angle)));
    }
  }

  int rows() const { return static_cast<int>(positions_.size()); }
  int RowFloats() const {
    return (scenario_.shape.heads + 2 * scenario_.shape.kv_heads) * scenario_.shape.head_dim;
  }
  int OutFloats() const { return scenario_.shape.heads * scenario_.shape.head_dim; }
  std::vector<float>& qkv() { return qkv_; }
  AttentionShape shape() const {
    AttentionShape shape = scenario_.shape;
    shape.q_norm = norms_.data();
    shape.k_norm = norms_.data() + shape.heads * shape.head_dim;
    return shape;
  }
  AttentionBatch batch() const {
    return {rows(), positions_.data(), table_of_row_.data(), cos_.data(), sin_.data()};
  }
  KvLayer layer() {
    return {scenario_.type, reinterpret_cast<std::byte*>(k_->data()),
            reinterpret_cast<std::byte*>(v_->data())};
  }
  std::vector<std::byte> Cache() {
    const size_t bytes = k_->Values().size() * sizeof(float);
    const KvLayer kv = layer();
    std::vector<std::byte> all(kv.k, kv.k + bytes);
    all.insert(all.end(), kv.v, kv.v + bytes);
    return all;
  }
  bool GuardsHold() const { return k_->GuardsHold() && v_->GuardsHold(); }

 private:
  int64_t BlockBytes() const { return scenario_.shape.kv_heads * head_bytes_; }

  std::vector<float> Normal(int n) {
    std::normal_distribution<float> normal;
    std::vector<float> x(n);
    for (float& v : x) v = normal(rng_);
    return x;
  }

  // Fills what the rows may see and entries that they may read.
  void AddSequence(const SequenceRows& rows, std::vector<int32_t>* table) {
    const int window = scenario_.shape.window;
    const int first = window > 0 ? std::max(0, rows.begin - window + 1) : 0;
    for (int position = first; position < rows.begin; ++position) {
      FillPosition((*table)[position / kKvBlockTokens], position % kKvBlockTokens,
                   position == scenario_.loud_position ? 8.0f : 1.0f);
    }
    for (int b = 0; b < first / kKvBlockTokens; ++b) (*table)[b] = -1;
    for (int position = rows.begin; position < rows.end; ++position) positions_.push_back(position);
  }

  void FillPosition(int32_t block, int slot, float magnitude) {
    const int dim = scenario_.shape.head_dim;
    std::normal_distribution<float> normal(0.0f, magnitude);
    for (int g = 0; g < scenario_.shape.kv_heads; ++g) {
      for (GuardedFloats* half : {k_.get(), v_.get()}) {
        std::byte* const head =
            reinterpret_cast<std::byte*>(half->data()) + block * BlockBytes() + g * head_bytes_;
        for (int d = 0; d < dim; ++d) {
          const int i = half == k_.get() ? d * kKvBlockTokens + slot : slot * dim + d;
          if (scenario_.type == KvType::kQ8_0) {
            head[i] = static_cast<std::byte>(static_cast<int>(rng_() % 255) - 127);
          } else if (scenario_.type == KvType::kF16) {
            Put(FloatToHalf(normal(rng_)), head + 2 * i);
          } else if (scenario_.type == KvType::kBF16) {
            Put(FloatToBFloat16(normal(rng_)), head + 2 * i);
          } else {
            Put(normal(rng_), head + 4 * i);
          }
        }
        if (scenario_.type != KvType::kQ8_0) continue;
        for (int b = 0; b < dim / kKvQuantBlock; ++b) {
          Put(FloatToHalf(0.03f * static_cast<float>(rng_() % 1000) / 1000),
              head + kKvBlockTokens * dim + 2 * (b * kKvBlockTokens + slot));
        }
      }
    }
  }
  template <typename T>
  static void Put(T value, std::byte* p) {
    std::memcpy(p, &value, sizeof value);
  }

  const Scenario scenario_;
  std::mt19937_64 rng_;
  int64_t head_bytes_ = 0;
  std::unique_ptr<GuardedFloats> k_, v_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<int32_t> positions_;
  std::vector<const int32_t*> table_of_row_;
  std::vector<float> qkv_, norms_, cos_, sin_;
};

// What a step leaves.
struct StepResult {
  std::vector<float> out;
  std::vector<std::byte> cache;
};

// attend(shape, batch, kv, qkv, out) on the scenario's inputs after edit(&data), with guards round all that
// it writes.
template <typename Attend, typename Edit>
StepResult RunStep(const Scenario& scenario, const Attend& attend, const Edit& edit) {
  StepData data(scenario);
  edit(&data);
  GuardedFloats qkv(data.qkv().size());
  GuardedFloats out(static_cast<size_t>(data.rows()) * data.OutFloats());
  std::copy(data.qkv().begin(), data.qkv().end(), qkv.data());
  attend(data.shape(), data.batch(), data.layer(), qkv.data(), out.data());
  EXPECT_TRUE(qkv.GuardsHold() && out.GuardsHold() && data.GuardsHold()) << Describe(scenario);
  return {out.Values(), data.Cache()};
}
template <typename Attend>
StepResult RunStep(const Scenario& scenario, const Attend& attend) {
  return RunStep(scenario, attend, [](StepData*) {});
}

inline std::unique_ptr<Backend> ScalarBackend() {
  auto backend = MakeBackend({"cpu", "scalar", 1});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

// `attention` and the device's work done.
inline auto OnDevice(CudaContext* context, CudaAttention* attention) {
  return [=](const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv, float* qkv,
             float* out) {
    attention->Run(shape, batch, kv, qkv, out);
    context->Settle();
  };
}
// The same with launches for as much as Prepare() rounds up to.
inline auto Prepared(CudaContext* context, CudaAttention* attention) {
  return [=](const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv, float* qkv,
             float* out) {
    static uint64_t steps = 0;
    AttentionBatch prepared = batch;
    prepared.step = ++steps;
    attention->Prepare(shape, prepared);
    attention->Run(shape, prepared, kv, qkv, out);
    context->Settle();
  };
}
inline auto OnCpu(Backend* backend) {
  return [=](const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv, float* qkv,
             float* out) { backend->Trunk().Attention(shape, batch, kv, qkv, out); };
}

inline ::testing::AssertionResult SameResults(const StepResult& a, const StepResult& b) {
  const auto same = SameFloats(a.out, b.out);
  if (!same) return ::testing::AssertionFailure() << "output " << same.message();
  const auto differs = std::mismatch(a.cache.begin(), a.cache.end(), b.cache.begin(), b.cache.end());
  if (differs.first == a.cache.end()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "cache at byte " << differs.first - a.cache.begin();
}

}  // namespace moepool
