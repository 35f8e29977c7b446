// What ExpertOps::Select chooses against GatePolicy, and RunSelected() against Run() and Combine().
#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/math.h"
#include "common/model/gate_policy.h"
#include "tests/contract/backend/backend_contract.h"

namespace moepool {
namespace {

constexpr int kHidden = 96;
constexpr SelectedExpert kNone = {-1, 0.0f};

ModelConfig Config(GateKind kind, int experts, int k, bool renormalize = false, float scale = 1) {
  ModelConfig config;
  config.experts = experts;
  config.experts_per_token = k;
  config.gate = {kind, renormalize, scale, 0.01f};
  return config;
}

// Rows of normal logits; of some rows many are equal, or zeros of both signs, or far apart.
std::vector<float> Logits(int rows, int experts, uint64_t seed) {
  std::vector<float> logits = Normal(static_cast<size_t>(rows) * experts, seed, 3);
  for (int row = 0; row < rows; ++row) {
    for (int e = 0; e < experts; ++e) {
      float& logit = logits[static_cast<size_t>(row) * experts + e];
      if (row % 5 == 1) logit = std::round(logit / 2) * 2;
      if (row % 5 == 2) logit = e % 2 == 0 ? 0.0f : -0.0f;
      if (row % 5 == 3) logit *= 1e37f;
      if (row % 5 == 4) logit = 4 + logit * 0.01f;
    }
  }
  return logits;
}

class SelectedTest : public BackendContract {
 protected:
  template <typename T>
  T* Device(const std::vector<T>& values) {
    auto buffer = backend_->Allocate(std::max<size_t>(values.size(), 1) * sizeof(T));
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    (*buffer)->Write(0, std::as_bytes(std::span(values)));
    buffers_.push_back(*std::move(buffer));
    return reinterpret_cast<T*>(buffers_.back()->data());
  }
  std::vector<SelectedExpert> Select(const ModelConfig& config, const std::vector<float>& logits, int rows,
                                     std::vector<uint8_t>* faults) {
    const size_t count = static_cast<size_t>(rows) * config.experts_per_token;
    SelectedExpert* const selected = Device(std::vector<SelectedExpert>(count + 1, {-7, -7}));
    backend_->Experts().Select(config, logits.empty() ? nullptr : Device(logits), rows, selected, *faults);
    Fetched chosen = {selected, (count + 1) * sizeof(SelectedExpert)};
    backend_->Experts().Fetch({&chosen, 1});
    const auto* const begin = static_cast<const SelectedExpert*>(chosen.host);
    EXPECT_EQ(begin[count], (SelectedExpert{-7, -7}));
    return {begin, begin + count};
  }
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::unique_ptr<Backend> reference_ = Reference();
};
INSTANTIATE_TEST_SUITE_P(Backends, SelectedTest, ::testing::ValuesIn(BackendCases()), CaseName);

TEST_P(SelectedTest, ChoosesAsThePolicyDoes) {
  constexpr int kRows = 15;
  for (const ModelConfig& config :
       {Config(GateKind::kSoftmax, 8, 2, true), Config(GateKind::kSoftmax, 128, 8),
        Config(GateKind::kSoftmax, 1, 1), Config(GateKind::kSoftmax, 33, 33, true, 2.5f),
        Config(GateKind::kSoftmax, 300, 17, false, 0.3f), Config(GateKind::kSparseMixer, 16, 2),
        Config(GateKind::kSparseMixer, 2, 2), Config(GateKind::kSigmoid, 16, 1),
        Config(GateKind::kSigmoid, 40, 6, true, 2.5f)}) {
    SCOPED_TRACE(std::to_string(config.experts) + " experts");
    ASSERT_TRUE(backend_->Experts().CanSelect(config));
    const auto policy = MakeGatePolicy(config).value();
    const auto experts = static_cast<size_t>(config.experts);
    const auto k = static_cast<size_t>(config.experts_per_token);
    std::vector<float> logits = Logits(kRows, config.experts, kTestSeed + experts);
    logits[3 * experts + experts / 2] = std::numeric_limits<float>::quiet_NaN();
    logits[4 * experts + experts - 1] = std::numeric_limits<float>::infinity();
    logits[5 * experts] = -std::numeric_limits<float>::infinity();
    std::fill_n(&logits[6 * experts], experts, -150.0f);  // whose sigmoids are 0
    std::vector<uint8_t> faults(kRows);
    faults[0] = 1;
    const std::vector<SelectedExpert> selected = Select(config, logits, kRows, &faults);
    for (size_t row = 0; row < kRows; ++row) {
      std::vector<SelectedExpert> expected(k, kNone);
      const bool good = row != 0 && policy->Select({&logits[row * experts], experts}, expected);
      if (!good) expected.assign(k, kNone);
      EXPECT_EQ(faults[row], !good) << row;
      const std::vector<SelectedExpert> own(&selected[row * k], &selected[row * k] + k);
      EXPECT_TRUE(own == expected) << "row " << row;
    }
  }
}

TEST_P(SelectedTest, ADenseModelTakesAllSlices) {
  const ModelConfig config = Config(GateKind::kDense, 16, 16);
  std::vector<uint8_t> faults = {0, 1, 0};
  const std::vector<SelectedExpert> selected = Select(config, {}, 3, &faults);
  for (int row = 0; row < 3; ++row) {
    for (int e = 0; e < 16; ++e) {
      EXPECT_EQ(selected[static_cast<size_t>(row) * 16 + e], row == 1 ? kNone : (SelectedExpert{e, 1.0f}));
    }
  }
}

struct Types {
  DType up, down;
  int ffn;
};

std::vector<std::unique_ptr<ExpertWeights>> Load(Backend* backend, int count, const Types& t,
                                                 const std::vector<int>& empty, uint64_t seed) {
  std::vector<std::unique_ptr<ExpertWeights>> experts;
  for (int e = 0; e < count; ++e) {
    ExpertWeights& w = *experts.emplace_back(std::make_unique<ExpertWeights>());
    if (std::find(empty.begin(), empty.end(), e) != empty.end()) continue;
    w.gate = LoadInto(backend, MakeFile(t.up, t.ffn, kHidden, seed + 3 * e, 0.3f));
    w.up = LoadInto(backend, MakeFile(t.up, t.ffn, kHidden, seed + 3 * e + 1, 0.3f));
    w.down = LoadInto(backend, MakeFile(t.down, kHidden, t.ffn, seed + 3 * e + 2, 0.3f));
  }
  return experts;
}

std::vector<const ExpertWeights*> Pointers(const std::vector<std::unique_ptr<ExpertWeights>>& experts) {
  std::vector<const ExpertWeights*> pointers;
  for (const auto& expert : experts) pointers.push_back(expert.get());
  return pointers;
}

// What rows get of experts and the shared one by the operations of the exchange.
std::vector<float> ByExchange(Backend* backend, const std::vector<const ExpertWeights*>& experts,
                              const ExpertWeights* shared, const Activations& x,
                              const std::vector<SelectedExpert>& selected, int k,
                              const std::vector<float>& shared_weights, std::vector<float> residual) {
  std::vector<ExpertEntry> entries;
  std::vector<ExpertPart> parts;
  std::vector<CombineRow> rows;
  for (int32_t row = 0; row < x.rows; ++row) {
    if (selected[static_cast<size_t>(row) * k].expert < 0) continue;
    const auto part = static_cast<int32_t>(parts.size());
    const auto begin = static_cast<int32_t>(entries.size());
    for (int i = 0; i < k; ++i) {
      const SelectedExpert& s = selected[static_cast<size_t>(row) * k + i];
      entries.push_back({s.expert, s.weight});
    }
    parts.push_back({row, begin, begin + k});
    rows.push_back({row, part, part + 1, 0, 0});
  }
  std::vector<uint8_t> faults(parts.size() + static_cast<size_t>(x.rows));
  std::vector<float> out(parts.size() * kHidden);
  backend->Experts().Run(experts, {x, parts, entries}, out.data(), faults);
  std::vector<const float*> pointers;
  for (size_t p = 0; p < parts.size(); ++p) pointers.push_back(&out[p * kHidden]);
  std::vector<float> own(static_cast<size_t>(x.rows) * kHidden);
  if (shared != nullptr) {
    parts.clear();
    entries.clear();
    for (int32_t row = 0; row < x.rows; ++row) {
      entries.push_back({0, shared_weights[static_cast<size_t>(row)]});
      parts.push_back({row, row, row + 1});
    }
    backend->Experts().Run({&shared, 1}, {x, parts, entries}, own.data(), faults);
  }
  backend->Trunk().Combine({pointers, {}, rows, shared != nullptr ? own.data() : nullptr, kHidden},
                           residual.data());
  return residual;
}

TEST_P(SelectedTest, RunsWhatWasChosenWithTheBitsOfTheExchange) {
  struct Case {
    Types types;
    int experts;
    int k;
    std::vector<int> empty;
    Types shared;  // ffn 0: none
    bool shared_gate;
  };
  const Types kNoShared = {DType::kF32, DType::kF32, 0};
  for (const Case& c : {Case{{DType::kQ4_1, DType::kQ8_0, 96}, 13, 3, {}, kNoShared, false},
                        {{DType::kQ4_1, DType::kQ4_1, 32}, 16, 16, {0, 7}, kNoShared, false},
                        {{DType::kF16, DType::kBF16, 43}, 20, 8, {}, {DType::kQ8_0, DType::kQ8_0, 64}, true},
                        {{DType::kQ8_0, DType::kF32, 40}, 3, 1, {2}, {DType::kF32, DType::kQ4_1, 160}, false},
                        {{DType::kQ5_0, DType::kQ4_0, 64}, 17, 17, {}, kNoShared, false}}) {
    SCOPED_TRACE(std::to_string(c.experts) + " experts, " + std::to_string(c.k) + " of a row");
    const auto experts = Load(backend_.get(), c.experts, c.types, c.empty, 100);
    const auto set = backend_->Experts().MakeSet(Pointers(experts)).value();
    ASSERT_NE(set, nullptr);
    const auto by_hand = Load(reference_.get(), c.experts, c.types, c.empty, 100);
    const bool has_shared = c.shared.ffn > 0;
    const auto shared = Load(backend_.get(), has_shared, c.shared, {}, 900);
    const auto shared_by_hand = Load(reference_.get(), has_shared, c.shared, {}, 900);
    const auto shared_set = backend_->Experts().MakeSet(Pointers(shared)).value();
    for (const int rows : {1, 7, 41}) {
      const ModelConfig config = Config(GateKind::kSoftmax, c.experts, c.k, true);
      std::vector<uint8_t> faults(static_cast<size_t>(rows));
      if (rows > 2) faults[1] = 1;
      const std::vector<SelectedExpert> selected =
          Select(config, Logits(rows, c.experts, kTestSeed + rows), rows, &faults);
      const DeviceRows x(backend_.get(), rows, kHidden,
                         Normal(static_cast<size_t>(rows) * kHidden, kTestSeed));
      const std::vector<float> residual = Normal(static_cast<size_t>(rows) * kHidden, kTestSeed + 1);
      const std::vector<float> shared_logits = Normal(static_cast<size_t>(rows), kTestSeed + 2);
      std::vector<float> weights;
      for (const float logit : shared_logits) {
        weights.push_back(c.shared_gate ? 1.0f / (1.0f + Exp(-logit)) : 1.0f);
      }
      const std::vector<float> expected =
          ByExchange(reference_.get(), Pointers(by_hand), has_shared ? shared_by_hand[0].get() : nullptr,
                     x.view, selected, c.k, weights, residual);
      float* const sums = Device(residual);
      const SelectedBatch batch = {x.view, Device(selected), c.k, has_shared ? shared_set.get() : nullptr,
                                   c.shared_gate ? Device(shared_logits) : nullptr};
      const std::vector<uint8_t> before = faults;
      backend_->Experts().RunSelected(*set, batch, sums, faults);
      backend_->Experts().Fetch({});
      EXPECT_TRUE(SameFloats(std::vector<float>(sums, sums + residual.size()), expected)) << rows << " rows";
      EXPECT_EQ(faults, before);
    }
  }
}

TEST_P(SelectedTest, ARowThatIsNotFiniteIsMarkedAndNoOther) {
  for (const DType dtype : {DType::kQ8_0, DType::kF32}) {
    const auto experts = Load(backend_.get(), 4, {dtype, dtype, 64}, {}, 100);
    const auto set = backend_->Experts().MakeSet(Pointers(experts)).value();
    const auto shared = Load(backend_.get(), 1, {dtype, dtype, 64}, {}, 900);
    const auto shared_set = backend_->Experts().MakeSet(Pointers(shared)).value();
    std::vector<float> values = Normal(4 * kHidden, kTestSeed);
    for (int c = 0; c < kHidden; ++c) values[kHidden + c] = 2e38f * (c % 2 == 0 ? 1.0f : -1.0f);
    const DeviceRows x(backend_.get(), 4, kHidden, values);
    const std::vector<SelectedExpert> selected = {{0, 1}, {1, 1}, {1, 1}, {2, 0},
                                                  {0, 1}, {3, 1}, {2, 1}, {3, 1}};
    std::vector<float> logits = {0, 0, 0, std::numeric_limits<float>::quiet_NaN()};
    std::vector<uint8_t> faults(4);
    backend_->Experts().RunSelected(*set, {x.view, Device(selected), 2, shared_set.get(), Device(logits)},
                                    Device(std::vector<float>(4 * kHidden)), faults);
    backend_->Experts().Fetch({});
    EXPECT_EQ(faults, (std::vector<uint8_t>{0, 1, 0, 1})) << Info(dtype).name;
  }
}

TEST_P(SelectedTest, ASetHasAllItsExperts) {
  const auto experts = Load(backend_.get(), 3, {DType::kQ8_0, DType::kQ8_0, 32}, {}, 100);
  std::vector<const ExpertWeights*> pointers = Pointers(experts);
  EXPECT_NE(backend_->Experts().MakeSet(pointers).value(), nullptr);
  pointers[1] = nullptr;
  EXPECT_EQ(backend_->Experts().MakeSet(pointers).value(), nullptr);
}

}  // namespace
}  // namespace moepool
