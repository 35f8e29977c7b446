// ExpertOps against a sum by hand: one pair at a time through MatMul, leaves added node by node of the tree.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "tests/contract/backend/backend_contract.h"

namespace moepool {
namespace {

constexpr int kHidden = 96;

// Experts of one shape and three types, loaded into a backend.
struct Experts {
  Experts(Backend* backend, int count, int ffn, DType gate, DType up, DType down,
          std::vector<int> empty = {}) {
    for (int e = 0; e < count; ++e) {
      auto w = std::make_unique<ExpertWeights>();
      if (std::find(empty.begin(), empty.end(), e) == empty.end()) {
        w->gate = LoadInto(backend, MakeFile(gate, ffn, kHidden, 100 + e, 0.3f));
        w->up = LoadInto(backend, MakeFile(up, ffn, kHidden, 200 + e, 0.3f));
        w->down = LoadInto(backend, MakeFile(down, kHidden, ffn, 300 + e, 0.3f));
      }
      pointers.push_back(w.get());
      owned.push_back(std::move(w));
    }
  }
  std::vector<std::unique_ptr<ExpertWeights>> owned;
  std::vector<const ExpertWeights*> pointers;
};

std::vector<float> Leaf(Backend* backend, const ExpertWeights& w, const Activations& x, int row,
                        float weight) {
  std::vector<float> leaf(kHidden, 0.0f);
  if (w.gate == nullptr) return leaf;
  const Activations one = {1, x.cols, x.f32 + row * x.cols, x.q + row * x.cols, x.scale + row * x.cols / 32};
  const int ffn = static_cast<int>(w.gate->rows());
  std::vector<float> gate(ffn), up(ffn);
  backend->Trunk().MatMul(*w.gate, one, nullptr, nullptr, gate.data(), ffn);
  backend->Trunk().MatMul(*w.up, one, nullptr, nullptr, up.data(), ffn);
  ScalarKernels()->silu_mul(gate.data(), up.data(), ffn, gate.data());
  const DeviceRows h(backend, 1, ffn, gate);
  backend->Trunk().MatMul(*w.down, h.view, nullptr, nullptr, leaf.data(), kHidden);
  for (float& v : leaf) v *= weight;
  return leaf;
}

// The value of node (level, index) over the leaves present.
std::vector<float> Node(const std::map<int, std::vector<float>>& leaves, int level, int index) {
  if (level == 0) return leaves.contains(index) ? leaves.at(index) : std::vector<float>();
  std::vector<float> left = Node(leaves, level - 1, 2 * index);
  const std::vector<float> right = Node(leaves, level - 1, 2 * index + 1);
  if (left.empty()) return right;
  for (size_t i = 0; i < right.size(); ++i) left[i] += right[i];
  return left;
}

struct Batch {
  std::vector<ExpertPart> parts;
  std::vector<ExpertEntry> entries;
  void Add(int row, const std::vector<ExpertEntry>& part) {
    const auto begin = static_cast<int32_t>(entries.size());
    entries.insert(entries.end(), part.begin(), part.end());
    parts.push_back({row, begin, static_cast<int32_t>(entries.size())});
  }
};

std::vector<float> ByHand(Backend* backend, const Experts& experts, const Activations& x,
                          const Batch& batch) {
  std::vector<float> out;
  for (const ExpertPart& part : batch.parts) {
    std::map<int, std::vector<float>> leaves;
    for (int e = part.begin; e < part.end; ++e) {
      const ExpertEntry& entry = batch.entries[e];
      leaves[entry.expert] = Leaf(backend, *experts.pointers[entry.expert], x, part.row, entry.weight);
    }
    const std::vector<float> sum = Node(leaves, 5, 0);
    out.insert(out.end(), sum.begin(), sum.end());
  }
  return out;
}

Batch RandomBatch(int rows, int experts, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  Batch batch;
  for (int row = 0; row < rows; ++row) {
    for (uint64_t parts = rng() % 3; parts > 0; --parts) {
      std::vector<ExpertEntry> entries;
      for (int e = 0; e < experts; ++e) {
        if (rng() % 3 == 0) entries.push_back({e, rng() % 5 == 0 ? 0.0f : normal(rng)});
      }
      if (!entries.empty()) batch.Add(row, entries);
    }
  }
  return batch;
}

class ExpertOpsTest : public BackendContract {
 protected:
  std::vector<float> RunExperts(const Experts& experts, const Activations& x, const Batch& batch,
                                std::vector<uint8_t>* faults) {
    faults->assign(batch.parts.size(), 0);
    std::vector<float> out(batch.parts.size() * kHidden, -9.0f);
    backend_->Experts().Run(experts.pointers, {x, batch.parts, batch.entries}, out.data(), *faults);
    return out;
  }
  std::unique_ptr<Backend> reference_ = Make({"scalar", 1});
};
INSTANTIATE_TEST_SUITE_P(Cpu, ExpertOpsTest, ::testing::ValuesIn(BackendCases()), CaseName);

TEST_P(ExpertOpsTest, EqualsTheSumByHand) {
  struct Types {
    DType gate, up, down;
    int ffn;
  };
  for (const Types& t : {Types{DType::kQ4_1, DType::kQ4_1, DType::kQ4_1, 96},
                         {DType::kQ4_0, DType::kQ8_0, DType::kQ8_0, 160},
                         {DType::kF32, DType::kF32, DType::kF32, 48},
                         {DType::kF16, DType::kBF16, DType::kF16, 43},
                         {DType::kQ8_0, DType::kF32, DType::kQ4_0, 32},
                         {DType::kQ8_0, DType::kQ8_0, DType::kF32, 40},
                         {DType::kQ4_1, DType::kQ4_0, DType::kQ6_K, 256},
                         {DType::kF32, DType::kQ8_0, DType::kQ4_K, 512},
                         {DType::kQ5_0, DType::kQ5_1, DType::kIQ4_NL, 96},
                         {DType::kIQ4_NL, DType::kQ5_0, DType::kQ5_1, 160},
                         {DType::kQ5_1, DType::kIQ4_NL, DType::kQ2_K, 256},
                         {DType::kQ2_K, DType::kQ3_K, DType::kQ5_K, 512},
                         {DType::kMXFP4, DType::kMXFP4, DType::kMXFP4, 96},
                         {DType::kQ8_0, DType::kMXFP4, DType::kIQ4_NL, 160},
                         {DType::kQ5_K, DType::kQ2_K, DType::kQ3_K, 256}}) {
    const Experts experts(backend_.get(), 13, t.ffn, t.gate, t.up, t.down, {4, 9});
    const Experts reference(reference_.get(), 13, t.ffn, t.gate, t.up, t.down, {4, 9});
    for (int rows : {0, 1, 3, 37}) {
      const std::vector<float> values = Normal(rows * kHidden, kTestSeed + rows);
      const DeviceRows x(backend_.get(), rows, kHidden, values);
      const Batch batch = RandomBatch(rows, 13, kTestSeed + rows);
      std::vector<uint8_t> faults;
      EXPECT_TRUE(SameFloats(RunExperts(experts, x.view, batch, &faults),
                             ByHand(reference_.get(), reference, x.view, batch)))
          << Info(t.gate).name << " " << Info(t.up).name << " " << Info(t.down).name << ", rows " << rows;
      EXPECT_EQ(faults, std::vector<uint8_t>(batch.parts.size()));
    }
  }
}

// A dense model: all 16 slices of each row in one part, whose entries all parts share.
TEST_P(ExpertOpsTest, PartsMayShareTheirEntries) {
  const Experts experts(backend_.get(), 16, 96, DType::kQ4_1, DType::kQ4_1, DType::kQ4_1);
  const Experts reference(reference_.get(), 16, 96, DType::kQ4_1, DType::kQ4_1, DType::kQ4_1);
  Batch batch;
  for (int e = 0; e < 16; ++e) batch.entries.push_back({e, 1.0f});
  for (int row = 0; row < 70; ++row) batch.parts.push_back({69 - row, 0, 16});
  const DeviceRows x(backend_.get(), 70, kHidden, Normal(70 * kHidden, kTestSeed));
  std::vector<uint8_t> faults;
  EXPECT_TRUE(SameFloats(RunExperts(experts, x.view, batch, &faults),
                         ByHand(reference_.get(), reference, x.view, batch)));
}

TEST_P(ExpertOpsTest, EmptySlicesAreRowsOfZeros) {
  const Experts experts(backend_.get(), 3, 32, DType::kQ8_0, DType::kQ8_0, DType::kQ8_0, {0, 1, 2});
  const DeviceRows x(backend_.get(), 2, kHidden, Normal(2 * kHidden, kTestSeed));
  Batch batch;
  batch.Add(1, {{0, 1.0f}, {2, 0.5f}});
  batch.Add(0, {{1, 1.0f}});
  std::vector<uint8_t> faults;
  EXPECT_TRUE(SameFloats(RunExperts(experts, x.view, batch, &faults), std::vector<float>(2 * kHidden, 0.0f)));
}

TEST_P(ExpertOpsTest, APartThatIsNotFiniteIsMarkedAndNoOther) {
  for (DType dtype : {DType::kQ8_0, DType::kF32}) {
    const Experts experts(backend_.get(), 4, 64, dtype, dtype, dtype);
    std::vector<float> values = Normal(3 * kHidden, kTestSeed);
    for (int c = 0; c < kHidden; ++c)
      values[kHidden + c] = 2e38f * (c % 2 == 0 ? 1.0f : -1.0f);  // row 1 overflows
    const DeviceRows x(backend_.get(), 3, kHidden, values);
    Batch batch;
    batch.Add(0, {{0, 1.0f}, {1, 1.0f}});
    batch.Add(1, {{1, 1.0f}, {2, 0.0f}});
    batch.Add(2, {{3, 1.0f}});
    batch.Add(2, {{0, std::numeric_limits<float>::infinity()}});
    std::vector<uint8_t> faults;
    RunExperts(experts, x.view, batch, &faults);
    EXPECT_EQ(faults, (std::vector<uint8_t>{0, 1, 0, 1})) << Info(dtype).name;
  }
}

TEST_P(ExpertOpsTest, ExpertsThatNoEntryNamesMayBeAbsent) {
  Experts experts(backend_.get(), 4, 32, DType::kQ8_0, DType::kQ8_0, DType::kQ8_0);
  const DeviceRows x(backend_.get(), 1, kHidden, Normal(kHidden, kTestSeed));
  Batch batch;
  batch.Add(0, {{1, 1.0f}, {3, 2.0f}});
  std::vector<uint8_t> faults;
  const std::vector<float> expected = RunExperts(experts, x.view, batch, &faults);
  experts.pointers[0] = experts.pointers[2] = nullptr;
  EXPECT_TRUE(SameFloats(RunExperts(experts, x.view, batch, &faults), expected));
}

}  // namespace
}  // namespace moepool
