// See bench_gpu.h.
#include "tools/bench_gpu.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <utility>

#include "absl/functional/function_ref.h"
#include "common/base/status_macros.h"
#include "common/kernels/cuda/cuda_kernels.h"
#include "common/kernels/kernels.h"
#include "common/tensor/quantize.h"

namespace moepool {
namespace {

using nlohmann::json;

constexpr int kCallsBeforeWaiting = 16;  // what is staged for calls stays until somebody waits
constexpr int kProbeBlocks = 2048;
constexpr int kProbeRounds = 512;
constexpr int kChosenExperts = 2;

template <typename... Args>
std::string Format(const char* format, Args... args) {
  char text[256];
  std::snprintf(text, sizeof(text), format, args...);
  return text;
}

std::vector<float> Normal(size_t n) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng);
  return x;
}

struct Limits {
  double read_gb_s = 0;
  double int8_gops = 0;
};

class GpuBench {
 public:
  GpuBench(const GpuBenchOptions& options, Backend* backend, Device* device,
           const std::function<void(const std::string&)>& note)
      : options_(options), backend_(*backend), device_(*device), note_(note) {}

  absl::StatusOr<json> Run();

 private:
  using Buffers = std::vector<std::unique_ptr<Buffer>>;

  // Seconds of a call, of those queued together until `seconds` have passed.
  double Seconds(absl::FunctionRef<void()> call);
  absl::StatusOr<Limits> Measure();
  absl::StatusOr<std::byte*> Allocate(size_t bytes, Buffers* buffers);
  absl::StatusOr<Activations> Rows(int rows, int cols, Buffers* buffers);
  absl::StatusOr<std::vector<std::unique_ptr<Matrix>>> Load(DType dtype, int rows, int cols, int count);
  json Result(json what, double seconds, double bytes, double ops, bool int8);
  absl::Status Products(DType dtype, json* results);
  absl::Status Experts(DType dtype, json* results);
  absl::Status Attention(KvType type, const char* name, int context, int rows, json* results);
  absl::Status Pick(int rows, json* results);

  const GpuBenchOptions& options_;
  Backend& backend_;
  Device& device_;
  const std::function<void(const std::string&)>& note_;
  Limits limits_;
  uint64_t steps_ = 0;  // of attention, which no two steps of a backend share
};

double GpuBench::Seconds(absl::FunctionRef<void()> call) {
  using Clock = std::chrono::steady_clock;
  call();  // memory grows, and code is loaded
  backend_.Trunk().Fetch({});
  backend_.Experts().Fetch({});
  int calls = 0;
  double elapsed = 0;
  for (const Clock::time_point start = Clock::now(); elapsed < options_.seconds;) {
    for (int i = 0; i < kCallsBeforeWaiting; ++i) call();
    backend_.Trunk().Fetch({});
    calls += kCallsBeforeWaiting;
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return elapsed / calls;
}

absl::StatusOr<std::byte*> GpuBench::Allocate(size_t bytes, Buffers* buffers) {
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, backend_.Allocate(bytes));
  buffers->push_back(std::move(buffer));
  return buffers->back()->data();
}

absl::StatusOr<Limits> GpuBench::Measure() {
  Buffers buffers;
  const uint64_t bytes = options_.cold_bytes / 16 * 16;
  MOEPOOL_ASSIGN_OR_RETURN(std::byte* const data, Allocate(bytes, &buffers));
  MOEPOOL_ASSIGN_OR_RETURN(std::byte* const sum, Allocate(sizeof(int32_t), &buffers));
  ReadProbeArgs read;
  read.data = reinterpret_cast<const uint8_t*>(data);
  read.vectors = static_cast<int64_t>(bytes / 16);
  read.blocks = static_cast<int32_t>(std::min<int64_t>(kProbeBlocks, read.vectors / kProbeThreads + 1));
  read.sum = reinterpret_cast<int32_t*>(sum);
  const ProbeKernels& probes = device_.Kernels().probes;
  Limits limits;
  limits.read_gb_s =
      1e-9 * static_cast<double>(bytes) / Seconds([&] { probes.read(read, device_.Stream()); });
  MultiplyProbeArgs multiply;
  multiply.rounds = bytes < (uint64_t{1} << 20) ? 1 : kProbeRounds;  // small where all is
  multiply.blocks = read.blocks;
  multiply.sum = read.sum;
  const double ops = static_cast<double>(kMultiplyProbeOps) * multiply.rounds * multiply.blocks;
  limits.int8_gops = 1e-9 * ops / Seconds([&] { probes.multiply(multiply, device_.Stream()); });
  note_(Format("%s   reading %.1f GB/s   int8 matrix products %.0f GOPS", device_.Description().c_str(),
               limits.read_gb_s, limits.int8_gops));
  return limits;
}

absl::StatusOr<Activations> GpuBench::Rows(int rows, int cols, Buffers* buffers) {
  const size_t n = static_cast<size_t>(rows) * static_cast<size_t>(cols);
  Activations x;
  x.rows = rows;
  x.cols = cols;
  MOEPOOL_ASSIGN_OR_RETURN(std::byte* const f32, Allocate(n * sizeof(float), buffers));
  const std::vector<float> values = Normal(n);
  buffers->back()->Write(0, std::as_bytes(std::span(values)));
  MOEPOOL_ASSIGN_OR_RETURN(std::byte* const q, Allocate(n, buffers));
  MOEPOOL_ASSIGN_OR_RETURN(std::byte* const scale, Allocate(n / kQuantBlock * sizeof(float), buffers));
  x.f32 = reinterpret_cast<float*>(f32);
  x.q = reinterpret_cast<int8_t*>(q);
  x.scale = reinterpret_cast<float*>(scale);
  std::vector<uint8_t> faults(static_cast<size_t>(rows));
  backend_.Trunk().Quantize(&x, faults);
  backend_.Trunk().Fetch({});
  return x;
}

// One random matrix, loaded `count` times.
absl::StatusOr<std::vector<std::unique_ptr<Matrix>>> GpuBench::Load(DType dtype, int rows, int cols,
                                                                    int count) {
  const std::vector<float> row = Normal(static_cast<size_t>(cols));
  const int64_t row_bytes = RowBytes(dtype, cols);
  std::vector<std::byte> file(static_cast<size_t>(row_bytes * rows));
  QuantizeRow(dtype, row.data(), cols, file.data());
  for (int r = 1; r < rows; ++r) std::copy_n(file.data(), row_bytes, file.data() + r * row_bytes);
  std::vector<std::unique_ptr<Matrix>> matrices;
  for (int i = 0; i < count; ++i) {
    MOEPOOL_ASSIGN_OR_RETURN(matrices.emplace_back(),
                             backend_.Load({dtype, rows, cols, file.data(), row_bytes, 0}, {}));
  }
  return matrices;
}

json GpuBench::Result(json what, double seconds, double bytes, double ops, bool int8) {
  const double gb_s = 1e-9 * bytes / seconds;
  const double gops = 1e-9 * ops / seconds;
  what["us"] = 1e6 * seconds;
  what["gb_s"] = gb_s;
  what["of_read"] = gb_s / limits_.read_gb_s;
  what["gops"] = gops;
  std::string of_compute;
  if (int8) {
    what["of_compute"] = gops / limits_.int8_gops;
    of_compute = Format(" (%3.0f %%)", 100 * gops / limits_.int8_gops);
  }
  note_(Format("%-9s %-5s %4d rows %8.1f us %8.1f GB/s (%3.0f %%) %9.1f GOPS%s",
               what["kernel"].get<std::string>().c_str(), what["type"].get<std::string>().c_str(),
               what["rows"].get<int>(), 1e6 * seconds, gb_s, 100 * gb_s / limits_.read_gb_s, gops,
               of_compute.c_str()) +
        (what.contains("context") ? Format("  context %d", what["context"].get<int>()) : ""));
  return what;
}

absl::Status GpuBench::Products(DType dtype, json* results) {
  const int hidden = options_.hidden;
  const uint64_t one = static_cast<uint64_t>(RowBytes(dtype, hidden)) * static_cast<uint64_t>(hidden);
  MOEPOOL_ASSIGN_OR_RETURN(const auto matrices,
                           Load(dtype, hidden, hidden, static_cast<int>(options_.cold_bytes / one) + 1));
  for (const int rows : options_.rows) {
    Buffers buffers;
    MOEPOOL_ASSIGN_OR_RETURN(const Activations x, Rows(rows, hidden, &buffers));
    MOEPOOL_ASSIGN_OR_RETURN(const Activations y, Rows(rows, hidden, &buffers));
    size_t call = 0;
    const double seconds = Seconds([&] {
      backend_.Trunk().MatMul(*matrices[call++ % matrices.size()], x, nullptr, nullptr, y.f32, hidden);
    });
    results->push_back(Result({{"kernel", "matmul"}, {"type", Info(dtype).name}, {"rows", rows}}, seconds,
                              static_cast<double>(matrices[0]->bytes()), 2.0 * rows * hidden * hidden,
                              Info(dtype).quantized));
  }
  return absl::OkStatus();
}

// Each row takes two experts that no row before it takes, while there are such.
absl::Status GpuBench::Experts(DType dtype, json* results) {
  std::vector<ExpertWeights> experts(static_cast<size_t>(options_.experts));
  MOEPOOL_ASSIGN_OR_RETURN(auto gates, Load(dtype, options_.ffn, options_.hidden, 2 * options_.experts));
  MOEPOOL_ASSIGN_OR_RETURN(auto downs, Load(dtype, options_.hidden, options_.ffn, options_.experts));
  std::vector<const ExpertWeights*> loaded;
  uint64_t expert_bytes = 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    experts[e].gate = std::move(gates[2 * e]);
    experts[e].up = std::move(gates[2 * e + 1]);
    experts[e].down = std::move(downs[e]);
    expert_bytes = 2 * experts[e].gate->bytes() + experts[e].down->bytes();
    loaded.push_back(&experts[e]);
  }
  for (const int rows : options_.rows) {
    Buffers buffers;
    MOEPOOL_ASSIGN_OR_RETURN(const Activations x, Rows(rows, options_.hidden, &buffers));
    MOEPOOL_ASSIGN_OR_RETURN(const Activations out, Rows(rows, options_.hidden, &buffers));
    std::vector<ExpertEntry> entries;
    std::vector<ExpertPart> parts;
    for (int row = 0; row < rows; ++row) {
      const int first = row * kChosenExperts % options_.experts / kChosenExperts * kChosenExperts;
      parts.push_back(
          {row, static_cast<int32_t>(entries.size()), static_cast<int32_t>(entries.size()) + kChosenExperts});
      for (int i = 0; i < kChosenExperts; ++i) entries.push_back({first + i, 0.5f});
    }
    std::vector<uint8_t> faults(static_cast<size_t>(rows));
    const double seconds = Seconds([&] {
      backend_.Experts().Run(loaded, {.x = x, .parts = parts, .entries = entries}, out.f32, faults);
    });
    const int read = std::min(options_.experts, rows * kChosenExperts);
    results->push_back(Result({{"kernel", "experts"}, {"type", Info(dtype).name}, {"rows", rows}}, seconds,
                              static_cast<double>(expert_bytes) * read,
                              6.0 * kChosenExperts * rows * options_.hidden * options_.ffn,
                              Info(dtype).quantized));
  }
  return absl::OkStatus();
}

// The last row of each of `rows` sequences. Calls take turns at layers that do not fit a cache together.
absl::Status GpuBench::Attention(KvType type, const char* name, int context, int rows, json* results) {
  AttentionShape shape;
  shape.heads = options_.heads;
  shape.kv_heads = options_.kv_heads;
  shape.head_dim = shape.rope_dims = options_.head_dim;
  const int64_t blocks = (context + kKvBlockTokens - 1) / kKvBlockTokens;
  const int64_t half = KvHeadBlockBytes(type, shape.head_dim) * shape.kv_heads * blocks * rows;  // K, or V
  if (static_cast<uint64_t>(2 * half) > options_.most_cache_bytes) return absl::OkStatus();
  const int64_t layers = static_cast<int64_t>(options_.cold_bytes) / (2 * half) + 1;
  Buffers buffers;
  MOEPOOL_ASSIGN_OR_RETURN(std::byte* const k, Allocate(static_cast<size_t>(layers * half), &buffers));
  MOEPOOL_ASSIGN_OR_RETURN(std::byte* const v, Allocate(static_cast<size_t>(layers * half), &buffers));
  const int columns = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
  MOEPOOL_ASSIGN_OR_RETURN(const Activations qkv, Rows(rows, columns, &buffers));
  MOEPOOL_ASSIGN_OR_RETURN(const Activations out, Rows(rows, shape.heads * shape.head_dim, &buffers));
  std::vector<int32_t> table(static_cast<size_t>(blocks * rows));
  std::iota(table.begin(), table.end(), 0);
  std::vector<const int32_t*> tables;
  for (int row = 0; row < rows; ++row) tables.push_back(table.data() + blocks * row);
  const std::vector<int32_t> position(static_cast<size_t>(rows), context - 1);
  // Rotations by one angle, which leave lengths as they are: calls rotate what the one before left.
  const std::vector<float> cos(static_cast<size_t>(rows) * shape.rope_dims / 2, 0.6f);
  const std::vector<float> sin(static_cast<size_t>(rows) * shape.rope_dims / 2, 0.8f);
  AttentionBatch batch = {rows, position.data(), tables.data(), cos.data(), sin.data()};
  int64_t call = 0;
  const double seconds = Seconds([&] {
    if (call % kCallsBeforeWaiting == 0) ++steps_;
    batch.step = steps_;
    const int64_t offset = call++ % layers * half;
    backend_.Trunk().Attention(shape, batch, {type, k + offset, v + offset}, qkv.f32, out.f32);
  });
  results->push_back(Result({{"kernel", "attention"}, {"type", name}, {"rows", rows}, {"context", context}},
                            seconds, static_cast<double>(2 * half),
                            4.0 * rows * context * shape.heads * shape.head_dim, false));
  return absl::OkStatus();
}

// The bytes of a call are those of the logits, which are gone through more than once.
absl::Status GpuBench::Pick(int rows, json* results) {
  Buffers buffers;
  MOEPOOL_ASSIGN_OR_RETURN(const Activations logits, Rows(rows, options_.vocab, &buffers));
  const size_t id_bytes = static_cast<size_t>(rows) * sizeof(int32_t);
  MOEPOOL_ASSIGN_OR_RETURN(std::byte* const ids, Allocate(id_bytes, &buffers));
  const uint64_t tenth = ~uint64_t{0} / 10;
  const PickParams nine_tenths = {.temperature = 1, .top_p = 9 * tenth, .random = 5 * tenth};
  for (const auto& [params, name] : {std::pair{PickParams(), "best"}, {nine_tenths, "top-p"}}) {
    std::vector<PickRow> picks;
    for (int32_t row = 0; row < rows; ++row) picks.push_back({row, params});
    const double seconds = Seconds(
        [&] { backend_.Trunk().Pick(picks, options_.vocab, logits.f32, reinterpret_cast<int32_t*>(ids)); });
    results->push_back(Result({{"kernel", "pick"}, {"type", name}, {"rows", rows}}, seconds,
                              4.0 * rows * options_.vocab, 0, false));
  }
  return absl::OkStatus();
}

absl::StatusOr<json> GpuBench::Run() {
  MOEPOOL_ASSIGN_OR_RETURN(limits_, Measure());
  json results = json::array();
  for (const std::string& name : options_.types) {
    MOEPOOL_ASSIGN_OR_RETURN(const DType dtype, DTypeFromName(name));
    MOEPOOL_RETURN_IF_ERROR(Products(dtype, &results));
    MOEPOOL_RETURN_IF_ERROR(Experts(dtype, &results));
  }
  for (const auto& [type, name] : {std::pair{KvType::kF16, "F16"}, {KvType::kQ8_0, "Q8_0"}}) {
    for (const int context : options_.contexts) {
      for (const int rows : options_.rows) {
        MOEPOOL_RETURN_IF_ERROR(Attention(type, name, context, rows, &results));
      }
    }
  }
  for (const int rows : options_.rows) MOEPOOL_RETURN_IF_ERROR(Pick(rows, &results));
  return json{{"device", device_.Description()},
              {"limits", {{"read_gb_s", limits_.read_gb_s}, {"int8_gops", limits_.int8_gops}}},
              {"results", std::move(results)}};
}

}  // namespace

absl::StatusOr<json> BenchGpu(const GpuBenchOptions& options, Backend* backend, Device* device,
                              const std::function<void(const std::string&)>& note) {
  return GpuBench(options, backend, device, note).Run();
}

}  // namespace moepool
