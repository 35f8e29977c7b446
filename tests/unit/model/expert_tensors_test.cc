// Expert views against the whole tensors they are cut from, and the bytes asked of the source for each.
#include "common/model/expert_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "common/model/synthetic.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

struct Asked {
  std::string name;
  uint64_t offset;
  uint64_t bytes;
};

// Records what is asked of another source.
class RecordingSource final : public ModelSource {
 public:
  explicit RecordingSource(const ModelSource& source) : source_(source) {}
  const ModelConfig& Config() const override { return source_.Config(); }
  const TokenizerSpec& Tokenizer() const override { return source_.Tokenizer(); }
  const std::vector<TensorInfo>& Tensors() const override { return source_.Tensors(); }
  const TensorInfo* Find(std::string_view name) const override { return source_.Find(name); }
  absl::StatusOr<TensorBytes> Range(std::string_view name, uint64_t offset, uint64_t bytes) const override {
    asked_.push_back({std::string(name), offset, bytes});
    return source_.Range(name, offset, bytes);
  }
  absl::StatusOr<ModelDigest> Digest() const override { return source_.Digest(); }
  std::vector<Asked> TakeAsked() { return std::exchange(asked_, {}); }

 private:
  const ModelSource& source_;
  mutable std::vector<Asked> asked_;
};

// All elements of a tensor of up to three dimensions, row after row.
std::vector<float> Whole(const ModelSource& source, const std::string& name) {
  const TensorInfo& tensor = *source.Find(name);
  const TensorBytes bytes = *source.Range(name, 0, tensor.bytes);
  MatrixView view{tensor.dtype,       tensor.dims[1] * tensor.dims[2],        tensor.dims[0],
                  bytes.bytes.data(), RowBytes(tensor.dtype, tensor.dims[0]), 0};
  std::vector<float> out(static_cast<size_t>(view.rows * view.cols));
  for (int64_t row = 0; row < view.rows; ++row) DequantizeRow(view, row, out.data() + row * view.cols);
  return out;
}

std::vector<float> Values(const MatrixView& view) {
  std::vector<float> out(static_cast<size_t>(view.rows * view.cols));
  for (int64_t row = 0; row < view.rows && view.cols > 0; ++row) {
    DequantizeRow(view, row, out.data() + row * view.cols);
  }
  return out;
}

// Rows [r0, r1), columns [c0, c1) of `whole`, whose rows have `cols` columns.
std::vector<float> Cut(const std::vector<float>& whole, int64_t cols, int64_t r0, int64_t r1, int64_t c0,
                       int64_t c1) {
  std::vector<float> out;
  for (int64_t r = r0; r < r1; ++r) {
    out.insert(out.end(), whole.begin() + r * cols + c0, whole.begin() + r * cols + c1);
  }
  return out;
}

struct Shape {
  DType dtype;
  int hidden;
  int ffn;
};

class DenseSlices : public ::testing::TestWithParam<Shape> {};

TEST_P(DenseSlices, CoverTheFfnOnce) {
  const Shape shape = GetParam();
  SynthSpec spec;
  spec.dtype = shape.dtype;
  spec.hidden = shape.hidden;
  spec.ffn = shape.ffn;
  const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
  const int64_t hidden = shape.hidden;
  const std::vector<float> gate = Whole(*source, "blk.1.ffn_gate.weight");
  const std::vector<float> up = Whole(*source, "blk.1.ffn_up.weight");
  const std::vector<float> down = Whole(*source, "blk.1.ffn_down.weight");
  int64_t next = 0;
  for (int s = 0; s < kDenseSlices; ++s) {
    SCOPED_TRACE("slice " + std::to_string(s));
    const ExpertTensors expert = *OpenExpert(*source, 1, s);
    const int64_t columns = ExpertFfn(source->Config(), s);
    EXPECT_EQ(Values(expert.gate), Cut(gate, hidden, next, next + columns, 0, hidden));
    EXPECT_EQ(Values(expert.up), Cut(up, hidden, next, next + columns, 0, hidden));
    EXPECT_EQ(Values(expert.down), Cut(down, shape.ffn, 0, hidden, next, next + columns));
    EXPECT_EQ(expert.down.rows, hidden);
    EXPECT_EQ(expert.down.col_begin % 32, 0);
    next += columns;
  }
  EXPECT_EQ(next, shape.ffn);
}

INSTANTIATE_TEST_SUITE_P(Shapes, DenseSlices,
                         ::testing::Values(Shape{DType::kQ4_K, 256, 768},   // slices of 1 or 2 groups of 32
                                           Shape{DType::kQ6_K, 256, 1280},  // 40 groups
                                           Shape{DType::kQ2_K, 256, 768}, Shape{DType::kQ3_K, 256, 1280},
                                           Shape{DType::kQ5_K, 256, 768}, Shape{DType::kQ5_0, 64, 544},
                                           Shape{DType::kQ5_1, 64, 160}, Shape{DType::kIQ4_NL, 64, 544},
                                           Shape{DType::kMXFP4, 64, 544},
                                           Shape{DType::kQ4_1, 64, 544},  // 17: one slice of two
                                           Shape{DType::kQ8_0, 32, 96},   // 3: most slices are empty
                                           Shape{DType::kF16, 40, 1000},  // the last slice is short
                                           Shape{DType::kF32, 36, 30}),
                         [](const auto& info) {
                           return std::string(Info(info.param.dtype).name) + "x" +
                                  std::to_string(info.param.ffn);
                         });

TEST(OpenExpert, EmptySlicesHaveNoColumnsAndOpenNothing) {
  SynthSpec spec;
  spec.ffn = 96;
  const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
  const ExpertTensors empty = *OpenExpert(*source, 0, 0);
  EXPECT_EQ(empty.gate.rows, 0);
  EXPECT_EQ(empty.up.rows, 0);
  EXPECT_EQ(empty.down.cols, 0);
  EXPECT_TRUE(empty.owners.empty());
}

TEST(OpenExpert, AsksForItsOwnBytesAlone) {
  for (const DType dtype : {DType::kQ4_0, DType::kF16}) {
    SynthSpec spec;
    spec.dtype = dtype;
    spec.experts = 5;
    spec.experts_per_token = 2;
    spec.ffn = 96;
    const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
    RecordingSource recorder(*source);
    for (int e = 0; e < spec.experts; ++e) {
      const ExpertTensors expert = *OpenExpert(recorder, 1, e);
      const std::vector<Asked> asked = recorder.TakeAsked();
      ASSERT_EQ(asked.size(), 3u);
      for (const Asked& range : asked) {
        const uint64_t share = source->Find(range.name)->bytes / 5;
        EXPECT_EQ(range.offset, share * static_cast<uint64_t>(e)) << range.name;
        EXPECT_EQ(range.bytes, share) << range.name;
      }
      EXPECT_EQ(Values(expert.gate),
                Cut(Whole(*source, "blk.1.ffn_gate_exps.weight"), 64, e * 96, e * 96 + 96, 0, 64));
      EXPECT_EQ(Values(expert.up),
                Cut(Whole(*source, "blk.1.ffn_up_exps.weight"), 64, e * 96, e * 96 + 96, 0, 64));
      EXPECT_EQ(Values(expert.down),
                Cut(Whole(*source, "blk.1.ffn_down_exps.weight"), 96, e * 64, e * 64 + 64, 0, 96));
    }
  }
}

TEST(OpenExpert, SplitExpertsAreOpenedFromTheirOwnTensors) {
  SynthSpec spec;
  spec.experts = 3;
  spec.experts_per_token = 2;
  spec.ffn = 96;
  spec.split_experts = true;
  const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
  RecordingSource recorder(*source);
  for (int e = 0; e < spec.experts; ++e) {
    const ExpertTensors expert = *OpenExpert(recorder, 1, e);
    const std::string number = std::to_string(e);
    std::vector<std::string> names;
    for (const Asked& range : recorder.TakeAsked()) {
      EXPECT_EQ(range.offset, 0u);
      EXPECT_EQ(range.bytes, source->Find(range.name)->bytes);
      names.push_back(range.name);
    }
    EXPECT_THAT(names, ::testing::ElementsAre("blk.1.ffn_gate." + number + ".weight",
                                              "blk.1.ffn_up." + number + ".weight",
                                              "blk.1.ffn_down." + number + ".weight"));
    EXPECT_EQ(Values(expert.gate), Whole(*source, names[0]));
    EXPECT_EQ(Values(expert.up), Whole(*source, names[1]));
    EXPECT_EQ(Values(expert.down), Whole(*source, names[2]));
    for (const std::string& name : names) EXPECT_TRUE(IsExpertTensor(source->Config(), name)) << name;
  }
}

// A source in which some tensors claim to be of another type.
class RetypedSource final : public ModelSource {
 public:
  RetypedSource(const ModelSource& source, std::string name, DType dtype)
      : source_(source), name_(std::move(name)), tensor_(*source.Find(name_)) {
    tensor_.dtype = dtype;
  }
  const ModelConfig& Config() const override { return source_.Config(); }
  const TokenizerSpec& Tokenizer() const override { return source_.Tokenizer(); }
  const std::vector<TensorInfo>& Tensors() const override { return source_.Tensors(); }
  const TensorInfo* Find(std::string_view name) const override {
    return name == name_ ? &tensor_ : source_.Find(name);
  }
  absl::StatusOr<TensorBytes> Range(std::string_view name, uint64_t offset, uint64_t bytes) const override {
    return source_.Range(name, offset, bytes);
  }
  absl::StatusOr<ModelDigest> Digest() const override { return source_.Digest(); }

 private:
  const ModelSource& source_;
  const std::string name_;
  TensorInfo tensor_;
};

TEST(ExpertsReadQuantized, OneFormALayer) {
  for (const bool split : {false, true}) {
    SynthSpec spec;
    spec.experts = 3;
    spec.experts_per_token = 2;
    spec.split_experts = split;
    const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
    EXPECT_TRUE(*ExpertsReadQuantized(*source, 1));
    const std::string up = split ? "blk.1.ffn_up.2.weight" : "blk.1.ffn_up_exps.weight";
    EXPECT_TRUE(*ExpertsReadQuantized(RetypedSource(*source, up, DType::kQ4_0), 1));
    const RetypedSource mixed(*source, up, DType::kF16);
    EXPECT_TRUE(*ExpertsReadQuantized(mixed, 0));
    const absl::Status status = ExpertsReadQuantized(mixed, 1).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(std::string(status.message()),
                ::testing::AllOf(HasSubstr("is of type Q8_0"), HasSubstr(up + " of F16")));
    // What the down projection reads is made by the worker: it may be of any type.
    const std::string down = split ? "blk.1.ffn_down.2.weight" : "blk.1.ffn_down_exps.weight";
    EXPECT_TRUE(ExpertsReadQuantized(RetypedSource(*source, down, DType::kF16), 1).ok());
    spec.dtype = DType::kF16;
    EXPECT_FALSE(*ExpertsReadQuantized(**MakeSyntheticSource(spec), 0));
  }
}

TEST(OpenExpert, DenseRowsAreTheSlicesAlone) {
  const std::unique_ptr<ModelSource> source = *MakeSyntheticSource({.ffn = 1024});
  RecordingSource recorder(*source);
  ASSERT_TRUE(OpenExpert(recorder, 0, 3).ok());
  for (const Asked& range : recorder.TakeAsked()) {
    const uint64_t whole = source->Find(range.name)->bytes;
    if (range.name == "blk.0.ffn_down.weight") continue;  // strided: all its rows
    EXPECT_EQ(range.offset, whole / 16 * 3) << range.name;
    EXPECT_EQ(range.bytes, whole / 16) << range.name;
  }
}

TEST(OpenExpert, NumbersOutOfRange) {
  const std::unique_ptr<ModelSource> source = *MakeSyntheticSource({});
  for (const auto& [layer, expert] : {std::pair(2, 0), {-1, 0}, {0, 16}, {0, -1}}) {
    EXPECT_EQ(OpenExpert(*source, layer, expert).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(std::string(OpenExpert(*source, 2, 0).status().message()),
              HasSubstr("layer 2 of a model of 2"));
}

TEST(IsExpertTensor, ByFamilyAndLayer) {
  ModelConfig dense;
  dense.layers = 12;
  EXPECT_TRUE(IsExpertTensor(dense, "blk.0.ffn_gate.weight"));
  EXPECT_TRUE(IsExpertTensor(dense, "blk.11.ffn_down.weight"));
  for (const char* name :
       {"blk.12.ffn_up.weight", "blk.00.ffn_up.weight", "blk.-0.ffn_up.weight", "blk.0.ffn_gate_inp.weight",
        "blk.0.ffn_norm.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_up.weight2", "blk.", "",
        "token_embd.weight", "blk.99999999999.ffn_up.weight"}) {
    EXPECT_FALSE(IsExpertTensor(dense, name)) << name;
  }
  ModelConfig experts = dense;
  experts.gate.kind = GateKind::kSoftmax;
  EXPECT_TRUE(IsExpertTensor(experts, "blk.3.ffn_up_exps.weight"));
  EXPECT_FALSE(IsExpertTensor(experts, "blk.3.ffn_up.weight"));
  experts.experts = 8;
  EXPECT_TRUE(IsExpertTensor(experts, "blk.3.ffn_up.7.weight"));
  EXPECT_FALSE(IsExpertTensor(dense, "blk.3.ffn_up.7.weight"));
  for (const char* name :
       {"blk.3.ffn_up.8.weight", "blk.3.ffn_up.-1.weight", "blk.3.ffn_up.07.weight", "blk.3.ffn_up.7.bias",
        "blk.3.ffn_up_shexp.weight", "blk.3.ffn_gate_inp.weight", "blk.3.ffn_gate_inp_shexp.weight"}) {
    EXPECT_FALSE(IsExpertTensor(experts, name)) << name;
  }
}

TEST(ExpertBytes, SumToTheTensors) {
  for (const auto& [experts, split] : {std::pair(0, false), {6, false}, {6, true}}) {
    SynthSpec spec;
    spec.experts = experts;
    spec.split_experts = split;
    spec.experts_per_token = experts / 3;
    spec.ffn = 544;
    const std::unique_ptr<ModelSource> source = *MakeSyntheticSource(spec);
    uint64_t expected = 0;
    for (const TensorInfo& tensor : source->Tensors()) {
      if (IsExpertTensor(source->Config(), tensor.name)) expected += tensor.bytes;
    }
    const std::vector<uint64_t> bytes = ExpertBytes(*source);
    EXPECT_EQ(bytes.size(), 2u * static_cast<size_t>(source->Config().experts));
    EXPECT_EQ(std::accumulate(bytes.begin(), bytes.end(), uint64_t{0}), expected);
    EXPECT_GT(expected, 0u);
  }
}

}  // namespace
}  // namespace moepool
