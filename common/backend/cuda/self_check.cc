// See self_check.h.
#include "common/backend/cuda/self_check.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/backend/cpu/cpu_backend.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/kernels/kernels.h"
#include "common/tensor/quantize.h"

namespace moepool {
namespace {

constexpr int kRows = 40;  // more than a kernel takes at once
constexpr int kAttended = 3;
constexpr int kHidden = 256;  // a super-block of the K-quants
constexpr int kFfn = 256;
constexpr int kFew = 3;

// Values of a spread of magnitudes, the same at each start.
class Values {
 public:
  std::vector<float> Take(size_t n, float magnitude) {
    std::vector<float> values(n);
    for (float& v : values) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      const auto bits = static_cast<int32_t>(state_ >> 40) - (1 << 23);
      v = static_cast<float>(bits) * 0x1p-23f * magnitude;
    }
    return values;
  }

 private:
  uint64_t state_ = 20261129;
};

// One backend with what its operations need. Operations are those of a layer, each from the outputs of those
// before it.
class Run {
 public:
  explicit Run(Backend* backend) : backend_(*backend) {}

  // Of each step its name and output, in order.
  struct Output {
    std::string name;
    std::vector<uint8_t> bytes;
  };
  absl::StatusOr<std::vector<Output>> All();

 private:
  absl::StatusOr<float*> Upload(const std::vector<float>& values);
  absl::StatusOr<Activations> MakeActivations(int rows, int cols);
  absl::StatusOr<std::unique_ptr<Matrix>> Load(DType dtype, int rows, int cols);
  void Keep(std::string name, const void* device, size_t bytes);
  absl::Status Rows();
  absl::Status Residual();
  absl::Status Picks();
  absl::Status Products();
  absl::Status Experts(DType dtype, int rows);
  absl::Status SelectedExperts();
  absl::Status Attention(KvType type);
  absl::Status Segments();

  Backend& backend_;
  Values values_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  Activations x_;
  std::vector<Output> outputs_;
};

absl::StatusOr<float*> Run::Upload(const std::vector<float>& values) {
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, backend_.Allocate(values.size() * sizeof(float)));
  buffer->Write(0, std::as_bytes(std::span(values)));
  buffers_.push_back(std::move(buffer));
  return buffers_.back()->f32();
}

absl::StatusOr<Activations> Run::MakeActivations(int rows, int cols) {
  const size_t n = static_cast<size_t>(rows) * static_cast<size_t>(cols);
  Activations a;
  a.rows = rows;
  a.cols = cols;
  MOEPOOL_ASSIGN_OR_RETURN(a.f32, Upload(std::vector<float>(n)));
  MOEPOOL_ASSIGN_OR_RETURN(float* q, Upload(std::vector<float>(n / sizeof(float))));
  a.q = reinterpret_cast<int8_t*>(q);
  MOEPOOL_ASSIGN_OR_RETURN(a.scale, Upload(std::vector<float>(n / kQuantBlock)));
  return a;
}

absl::StatusOr<std::unique_ptr<Matrix>> Run::Load(DType dtype, int rows, int cols) {
  const std::vector<float> values = values_.Take(static_cast<size_t>(rows) * cols, 0.05f);
  const int64_t row_bytes = RowBytes(dtype, cols);
  std::vector<std::byte> file(static_cast<size_t>(rows * row_bytes));
  for (int r = 0; r < rows; ++r) {
    QuantizeRow(dtype, values.data() + r * cols, cols, file.data() + r * row_bytes);
  }
  return backend_.Load({dtype, rows, cols, file.data(), row_bytes, 0}, {});
}

void Run::Keep(std::string name, const void* device, size_t bytes) {
  Fetched fetched = {device, bytes};
  backend_.Trunk().Fetch({&fetched, 1});
  const auto* const begin = static_cast<const uint8_t*>(fetched.host);
  outputs_.push_back({std::move(name), {begin, begin + bytes}});
}

absl::Status Run::Rows() {
  MOEPOOL_ASSIGN_OR_RETURN(float* const in, Upload(values_.Take(kRows * kHidden, 3)));
  MOEPOOL_ASSIGN_OR_RETURN(float* const weight, Upload(values_.Take(kHidden, 1)));
  MOEPOOL_ASSIGN_OR_RETURN(float* const bias, Upload(values_.Take(kHidden, 1)));
  MOEPOOL_ASSIGN_OR_RETURN(x_, MakeActivations(kRows, kHidden));
  std::vector<uint8_t> faults(kRows);
  for (const NormKind kind : {NormKind::kLayer, NormKind::kRms}) {
    backend_.Trunk().Norm({kind, weight, bias, 1e-5f}, in, &x_, faults);
    const std::string name = kind == NormKind::kRms ? "RMS norm" : "layer norm";
    Keep(name, x_.f32, kRows * kHidden * sizeof(float));
    Keep(name + ", scales", x_.scale, kRows * kHidden / kQuantBlock * sizeof(float));
    Keep(name + ", codes", x_.q, kRows * kHidden);
  }
  MOEPOOL_ASSIGN_OR_RETURN(Activations plain, MakeActivations(kRows, kHidden));
  plain.f32 = in;
  backend_.Trunk().Quantize(&plain, faults);
  Keep("quantisation, scales", plain.scale, kRows * kHidden / kQuantBlock * sizeof(float));
  Keep("quantisation, codes", plain.q, kRows * kHidden);
  const std::vector<int32_t> packed = {3, 0, 1, kRows - 1};
  MOEPOOL_ASSIGN_OR_RETURN(float* const to, Upload(std::vector<float>(packed.size() * kHidden)));
  for (int8_t* const q : {static_cast<int8_t*>(nullptr), plain.q}) {
    plain.q = q;
    backend_.Trunk().Pack(plain, packed, reinterpret_cast<std::byte*>(to));
    Keep("packed rows", to, packed.size() * kHidden * sizeof(float));
  }
  return absl::OkStatus();
}

absl::Status Run::Residual() {
  const std::vector<float> parts = values_.Take(3 * kHidden, 1);
  const float* const pointers[] = {parts.data(), parts.data() + kHidden, parts.data() + 2 * kHidden};
  const float* mixed[] = {pointers[0], pointers[1], pointers[2]};
  const PlannedAdd adds[] = {{0, 1}};
  const CombineRow rows[] = {{1, 0, 2, 0, 1}, {2, 2, 3, 1, 1}};
  MOEPOOL_ASSIGN_OR_RETURN(float* const shared, Upload(values_.Take(4 * kHidden, 1)));
  MOEPOOL_ASSIGN_OR_RETURN(float* const residual, Upload(values_.Take(4 * kHidden, 1)));
  for (const float* own : {static_cast<const float*>(nullptr), static_cast<const float*>(shared)}) {
    backend_.Trunk().Combine({pointers, adds, rows, own, kHidden}, residual);
    Keep("sum of parts", residual, 4 * kHidden * sizeof(float));
  }
  const uint8_t on_device[] = {0, 1, 1};
  for (int part = 0; part < 3; ++part) {
    MOEPOOL_ASSIGN_OR_RETURN(float* const copy, Upload({pointers[part], pointers[part] + kHidden}));
    if (on_device[part]) mixed[part] = copy;
  }
  backend_.Trunk().Combine({mixed, adds, rows, shared, kHidden, on_device}, residual);
  Keep("sum of parts on the device", residual, 4 * kHidden * sizeof(float));
  const int32_t kept[] = {1, 3};
  backend_.Trunk().Gather(kept, kHidden, residual);
  Keep("gathered rows", residual, 4 * kHidden * sizeof(float));
  return absl::OkStatus();
}

// Few values, so that many are equal where a search ends, and zeros of both signs. Two rows give no id.
absl::Status Run::Picks() {
  constexpr size_t vocab = 700;
  constexpr uint64_t half = uint64_t{1} << 63;
  std::vector<float> logits = values_.Take(3 * vocab, 6);
  for (float& x : logits) x = x > 0 ? 0 - std::floor(x) : std::ceil(x);
  logits[vocab + 77] = std::numeric_limits<float>::quiet_NaN();
  std::fill_n(&logits[2 * vocab], vocab, -std::numeric_limits<float>::infinity());
  std::vector<PickRow> rows = {{0, {}}, {1, {}}, {2, {}}};
  for (const PickParams& kind : {PickParams{.temperature = 1},
                                 {.temperature = 0.3f, .top_k = 5},
                                 {.temperature = 2, .top_p = half},
                                 {.temperature = 1e4f, .top_k = 40, .top_p = half + half / 2},
                                 {.temperature = 1, .min_p = 0.2f}}) {
    for (uint64_t part = 0; part < 4; ++part) {
      rows.push_back({0, kind});
      rows.back().params.random = half / 2 * part + (half >> part);
    }
  }
  MOEPOOL_ASSIGN_OR_RETURN(float* const on_device, Upload(logits));
  MOEPOOL_ASSIGN_OR_RETURN(float* const ids, Upload(std::vector<float>(rows.size())));
  backend_.Trunk().Pick(rows, vocab, on_device, reinterpret_cast<int32_t*>(ids));
  Keep("picked ids", ids, rows.size() * sizeof(int32_t));
  return absl::OkStatus();
}

absl::Status Run::Products() {
  MOEPOOL_ASSIGN_OR_RETURN(float* const y, Upload(std::vector<float>(kRows * kFfn)));
  MOEPOOL_ASSIGN_OR_RETURN(float* const bias, Upload(values_.Take(kFfn, 1)));
  for (int i = 0; i < kDTypeCount; ++i) {
    const DType dtype = static_cast<DType>(i);
    MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<Matrix> w, Load(dtype, kFfn, kHidden));
    for (const int rows : {kRows, kFew}) {
      Activations x = x_;
      x.rows = rows;
      backend_.Trunk().MatMul(*w, x, bias, rows == kFew ? y : nullptr, y, kFfn);
      Keep(StrCat("product with ", Info(dtype).name), y, kRows * kFfn * sizeof(float));
    }
  }
  return absl::OkStatus();
}

absl::Status Run::Experts(DType dtype, int rows) {
  ExpertWeights experts[2];
  for (ExpertWeights& expert : experts) {
    MOEPOOL_ASSIGN_OR_RETURN(expert.gate, Load(dtype, kFfn, kHidden));
    MOEPOOL_ASSIGN_OR_RETURN(expert.up, Load(dtype, kFfn, kHidden));
    MOEPOOL_ASSIGN_OR_RETURN(expert.down, Load(dtype, kHidden, kFfn));
  }
  MOEPOOL_ASSIGN_OR_RETURN(float* const out, Upload(std::vector<float>(kRows * kHidden)));
  const ExpertWeights* const loaded[] = {&experts[0], &experts[1]};
  const std::vector<ExpertEntry> entries = {{0, 0.75f}, {1, 0.25f}, {1, 1.0f}};
  std::vector<ExpertPart> parts;  // of both experts and of one in turn
  for (int32_t row = 0; row < rows; ++row) parts.push_back({row, row % 2 == 0 ? 0 : 2, row % 2 == 0 ? 2 : 3});
  std::vector<uint8_t> faults(kRows);
  Activations x = x_;
  x.rows = rows;
  backend_.Experts().Run(loaded, {.x = x, .parts = parts, .entries = entries}, out, faults);
  Keep(StrCat("experts in ", Info(dtype).name), out, kRows * kHidden * sizeof(float));
  return absl::OkStatus();
}

// What gates choose among logits of which some are equal, and the experts of the last, one of which every row
// takes.
absl::Status Run::SelectedExperts() {
  constexpr int kExperts = 5;
  constexpr int kOwnFfn = 64;
  ModelConfig config;
  config.experts = kExperts;
  config.experts_per_token = 3;
  config.gate = {.kind = GateKind::kSoftmax, .renormalize = true, .scale = 1.5f};
  ModelConfig mixer = config;
  mixer.experts_per_token = 2;
  mixer.gate = {.kind = GateKind::kSparseMixer, .jitter_eps = 0.1f};
  ModelConfig sigmoid = config;
  sigmoid.gate.kind = GateKind::kSigmoid;
  ExpertWeights experts[kExperts + 1];
  const ExpertWeights* loaded[kExperts + 1];
  for (int e = 0; e <= kExperts; ++e) {
    loaded[e] = &experts[e];
    if (e == 1) continue;  // an empty slice
    MOEPOOL_ASSIGN_OR_RETURN(experts[e].gate, Load(DType::kQ8_0, kOwnFfn, kHidden));
    MOEPOOL_ASSIGN_OR_RETURN(experts[e].up, Load(DType::kQ8_0, kOwnFfn, kHidden));
    MOEPOOL_ASSIGN_OR_RETURN(experts[e].down, Load(DType::kQ8_0, kHidden, kOwnFfn));
  }
  std::vector<float> values = values_.Take(kRows * kExperts, 4);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = i % kExperts == 0 ? 9.0f : static_cast<float>(static_cast<int>(values[i]));
  }
  MOEPOOL_ASSIGN_OR_RETURN(float* const logits, Upload(values));
  MOEPOOL_ASSIGN_OR_RETURN(float* const shared_logits, Upload(values_.Take(kRows, 2)));
  MOEPOOL_ASSIGN_OR_RETURN(float* const residual, Upload(values_.Take(kRows * kHidden, 1)));
  MOEPOOL_ASSIGN_OR_RETURN(float* const memory, Upload(std::vector<float>(kRows * 3 * 2)));
  auto* const selected = reinterpret_cast<SelectedExpert*>(memory);
  std::vector<uint8_t> faults(kRows);
  ExpertOps& ops = backend_.Experts();
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<ExpertSet> set, ops.MakeSet({loaded, kExperts}));
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<ExpertSet> shared, ops.MakeSet({loaded + kExperts, 1}));
  // Weights that do not fit the device are no set, and then nothing is to be checked.
  const bool fits = set != nullptr && shared != nullptr;
  for (const int rows : {1, kRows}) {
    const size_t count = static_cast<size_t>(rows);
    ops.Select(mixer, logits, rows, selected, faults);
    Keep("choice of the sparse mixer", selected, count * 2 * sizeof(SelectedExpert));
    ops.Select(sigmoid, logits, rows, selected, faults);
    Keep("choice of the sigmoid gate", selected, count * 3 * sizeof(SelectedExpert));
    ops.Select(config, logits, rows, selected, faults);
    Keep("choice of the softmax gate", selected, count * 3 * sizeof(SelectedExpert));
    Activations x = x_;
    x.rows = rows;
    const SelectedBatch batch = {x, selected, config.experts_per_token, shared.get(), shared_logits};
    if (fits) ops.RunSelected(*set, batch, residual, faults);
    Keep("sums of chosen experts", residual, fits ? kRows * kHidden * sizeof(float) : 0);
  }
  return absl::OkStatus();
}

// Rows that end in the second split, of which the cache's first holds zeros.
absl::Status Run::Attention(KvType type) {
  AttentionShape shape;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 64;
  shape.rope_dims = 64;
  const int32_t positions[kAttended] = {kAttentionSplit - 1, kAttentionSplit, kAttentionSplit + 1};
  std::vector<int32_t> table(kAttentionSplit / kKvBlockTokens + 1);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  const int32_t* const tables[kAttended] = {table.data(), table.data(), table.data()};
  const std::vector<float> cos = values_.Take(kAttended * 32, 1);
  const std::vector<float> sin = values_.Take(kAttended * 32, 1);
  const size_t bytes = table.size() * shape.kv_heads * KvHeadBlockBytes(type, shape.head_dim);
  std::byte* cache[2];
  for (std::byte*& half : cache) {
    MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, backend_.Allocate(bytes));
    half = buffer->data();
    buffers_.push_back(std::move(buffer));
  }
  MOEPOOL_ASSIGN_OR_RETURN(float* const qkv, Upload(values_.Take(kAttended * 8 * 64, 1)));
  MOEPOOL_ASSIGN_OR_RETURN(float* const out, Upload(std::vector<float>(kAttended * 4 * 64)));
  const AttentionBatch batch = {kAttended, positions, tables, cos.data(), sin.data()};
  backend_.Trunk().Attention(shape, batch, {type, cache[0], cache[1]}, qkv, out);
  const std::string name = StrCat("attention over a cache of type ", static_cast<int>(type));
  Keep(name, out, kAttended * 4 * 64 * sizeof(float));
  Keep(name + ", keys", cache[0], bytes);
  Keep(name + ", values", cache[1], bytes);
  return absl::OkStatus();
}

// A segment that comes again and again, at other positions each time, as often as it takes to be replayed
// twice. Its numbers are none that a decoder comes to.
absl::Status Run::Segments() {
  const AttentionShape shape = {.heads = 4, .kv_heads = 2, .head_dim = 64, .rope_dims = 64};
  const int32_t block = 0;
  const int32_t* const tables[1] = {&block};
  const size_t bytes = static_cast<size_t>(KvHeadBlockBytes(KvType::kF32, 64)) * 2;
  MOEPOOL_ASSIGN_OR_RETURN(float* const k, Upload(std::vector<float>(bytes / sizeof(float))));
  MOEPOOL_ASSIGN_OR_RETURN(float* const v, Upload(std::vector<float>(bytes / sizeof(float))));
  MOEPOOL_ASSIGN_OR_RETURN(float* const qkv, Upload(values_.Take(8 * 64, 1)));
  MOEPOOL_ASSIGN_OR_RETURN(Activations out, MakeActivations(1, 4 * 64));
  const KvLayer kv = {KvType::kF32, reinterpret_cast<std::byte*>(k), reinterpret_cast<std::byte*>(v)};
  for (int32_t position = 0; position < 4; ++position) {
    const std::vector<float> cos = values_.Take(32, 1);
    const std::vector<float> sin = values_.Take(32, 1);
    uint8_t fault = 0;
    constexpr uint64_t kNumber = std::numeric_limits<uint64_t>::max();
    const uint64_t step = kNumber - static_cast<uint64_t>(position);
    const AttentionBatch batch = {1, &position, tables, cos.data(), sin.data(), step};
    backend_.Trunk().QueueSegment(
        {.number = kNumber, .rows = 1, .shape = &shape, .batch = &batch, .faults = {&fault, 1}}, [&] {
          backend_.Trunk().Attention(shape, batch, kv, qkv, out.f32);
          backend_.Trunk().Quantize(&out, {&fault, 1});
        });
    Keep("a segment's attention", out.f32, 4 * 64 * sizeof(float));
    Keep("a segment's quantised rows", out.q, 4 * 64);
    Keep("a segment's keys", k, bytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Run::Output>> Run::All() {
  MOEPOOL_RETURN_IF_ERROR(Rows());
  MOEPOOL_RETURN_IF_ERROR(Residual());
  MOEPOOL_RETURN_IF_ERROR(Picks());
  MOEPOOL_RETURN_IF_ERROR(Products());
  for (const DType dtype : {DType::kQ4_K, DType::kF16}) {
    for (const int rows : {1, kFew, kRows}) MOEPOOL_RETURN_IF_ERROR(Experts(dtype, rows));
  }
  MOEPOOL_RETURN_IF_ERROR(SelectedExperts());
  for (const KvType type : {KvType::kF16, KvType::kBF16, KvType::kF32, KvType::kQ8_0}) {
    MOEPOOL_RETURN_IF_ERROR(Attention(type));
  }
  MOEPOOL_RETURN_IF_ERROR(Segments());
  return std::move(outputs_);
}

}  // namespace

absl::Status CheckBits(Backend* backend) {
  CpuBackend cpu(ScalarKernels(), 1, {});
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Run::Output> expected, Run(&cpu).All());
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Run::Output> got, Run(backend).All());
  for (size_t i = 0; i < expected.size(); ++i) {
    const std::vector<uint8_t>& want = expected[i].bytes;
    const std::vector<uint8_t>& have = got[i].bytes;
    if (have.empty()) continue;
    for (size_t at = 0; at < want.size(); ++at) {
      if (want[at] == have[at]) continue;
      return absl::FailedPreconditionError(StrCat(backend->Name(), " backend: ", expected[i].name,
                                                  " differs from the CPU's at byte ", at, ": ", have[at],
                                                  " rather than ", want[at]));
    }
  }
  return absl::OkStatus();
}

}  // namespace moepool
