// Families in the mixes of types that files have: against the same weights dequantised, whose arithmetic
// families_test.cc holds against transformers, and the same to the bit for every number of workers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "common/model/families.h"
#include "common/model/synthetic.h"
#include "common/tensor/matrix_view.h"
#include "router/engine.h"
#include "router/local_pool.h"
#include "tests/support/run_sequence.h"

namespace moepool {
namespace {

// Every matrix of another source as F32.
class DequantizedSource final : public ModelSource {
 public:
  explicit DequantizedSource(std::shared_ptr<const ModelSource> source)
      : source_(std::move(source)), tensors_(source_->Tensors()) {
    for (TensorInfo& tensor : tensors_) {
      tensor.dtype = DType::kF32;
      tensor.bytes = static_cast<uint64_t>(tensor.dims[0] * tensor.dims[1] * tensor.dims[2]) * sizeof(float);
    }
  }
  const ModelConfig& Config() const override { return source_->Config(); }
  const TokenizerSpec& Tokenizer() const override { return source_->Tokenizer(); }
  const std::vector<TensorInfo>& Tensors() const override { return tensors_; }
  const TensorInfo* Find(std::string_view name) const override {
    for (const TensorInfo& tensor : tensors_) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }
  absl::StatusOr<TensorBytes> Range(std::string_view name, uint64_t offset, uint64_t bytes) const override {
    const TensorInfo& tensor = *source_->Find(name);
    const TensorBytes raw = source_->Range(name, 0, tensor.bytes).value();
    MatrixView view;
    view.dtype = tensor.dtype;
    view.rows = tensor.dims[1] * tensor.dims[2];
    view.cols = tensor.dims[0];
    view.data = raw.bytes.data();
    view.row_stride_bytes = RowBytes(tensor.dtype, view.cols);
    auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(view.rows * view.cols));
    for (int64_t row = 0; row < view.rows; ++row) DequantizeRow(view, row, values->data() + row * view.cols);
    return TensorBytes{std::as_bytes(std::span(*values)).subspan(offset, bytes), values};
  }
  absl::StatusOr<ModelDigest> Digest() const override { return source_->Digest(); }

 private:
  const std::shared_ptr<const ModelSource> source_;
  std::vector<TensorInfo> tensors_;
};

std::vector<std::vector<float>> Logits(std::shared_ptr<const ModelSource> source, int workers) {
  const std::unique_ptr<Backend> backend = MakeBackend({"cpu", "auto", 2}).value();
  const auto pool = LocalPool::Create(source, backend.get(), workers).value();
  EngineOptions options;
  options.limits.token_budget = 7;
  options.kv_type = KvType::kF32;
  options.kv_bytes = 16 << 20;
  const auto engine = Engine::Create(backend.get(), source, pool.get(), options).value();
  SequenceRequest request;
  request.first_logits = 0;
  std::mt19937 random(5);
  for (int i = 0; i < 40; ++i) {
    request.prompt.push_back(
        static_cast<int32_t>(random() % static_cast<uint32_t>(source->Config().vocab_size)));
  }
  const SequenceResult result = RunSequence(engine.get(), request);
  EXPECT_TRUE(result.status.ok()) << result.status;
  std::vector<std::vector<float>> logits;
  for (const LogitsRow& row : result.logits) logits.push_back(row.logits);
  return logits;
}

class QuantizedFamilies : public ::testing::TestWithParam<std::string> {};

TEST_P(QuantizedFamilies, MixedTypesComputeWhatTheirWeightsSay) {
  const Family& family = *FindFamily(GetParam());
  SynthSpec spec;
  spec.family = GetParam();
  spec.hidden = 256;
  spec.layers = 3;  // the last has more bits than the others
  spec.heads = 8;
  spec.kv_heads = 4;
  spec.head_dim = 32;
  spec.experts = family.experts ? 6 : 0;
  spec.experts_per_token = family.experts ? 2 : 0;
  spec.ffn = 256;
  spec.shared_ffn = family.shared_expert ? 512 : 0;
  spec.original_context = family.longrope_mscale > 0 ? 32 : 0;
  spec.vocab = 288;
  spec.dtype = DType::kQ4_K;
  spec.more_dtype = DType::kQ6_K;
  const std::shared_ptr<const ModelSource> source = MakeSyntheticSource(spec).value();
  const std::string down = family.experts ? "ffn_down_exps.weight" : "ffn_down.weight";
  ASSERT_EQ(source->Find("blk.0." + down)->dtype, DType::kQ4_K);
  ASSERT_EQ(source->Find("blk.2." + down)->dtype, DType::kQ6_K);

  const auto quantized = Logits(source, 1);
  EXPECT_EQ(Logits(source, 3), quantized);
  const auto exact = Logits(std::make_shared<DequantizedSource>(source), 1);
  ASSERT_EQ(quantized.size(), exact.size());
  // Rows are quantised to 8 bits on their way: a few parts in a thousand a product. A row near the edge of a
  // gate may choose other experts, so the bound is for the median.
  std::vector<double> differences;
  for (size_t row = 0; row < exact.size(); ++row) {
    double largest = 0;
    double apart = 0;
    for (size_t v = 0; v < exact[row].size(); ++v) {
      largest = std::max<double>(largest, std::fabs(exact[row][v]));
      apart = std::max<double>(apart, std::fabs(exact[row][v] - quantized[row][v]));
    }
    differences.push_back(apart / largest);
  }
  std::sort(differences.begin(), differences.end());
  std::printf("median difference %.2e, largest %.2e\n", differences[differences.size() / 2],
              differences.back());
  EXPECT_LE(differences[differences.size() / 2], 0.02);
}

std::vector<std::string> AllFamilies() {
  std::vector<std::string> names;
  for (const Family& family : Families()) names.emplace_back(family.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedFamilies, ::testing::ValuesIn(AllFamilies()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace moepool
