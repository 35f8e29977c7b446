// `moepool bench kernels`: products and attention of one instruction set, or of a GPU (bench_gpu.h), each
// beside what the machine gives at most.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "common/backend/backend.h"
#include "common/backend/cuda/cuda_backend.h"
#include "common/base/aligned_bytes.h"
#include "common/base/config.h"
#include "common/base/processors.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/thread_pool.h"
#include "common/kernels/packed.h"
#include "common/tensor/quantize.h"
#include "nlohmann/json.hpp"
#include "tools/bench.h"
#include "tools/bench_gpu.h"
#include "tools/bench_limits.h"

namespace moepool {
namespace {

using nlohmann::json;

constexpr int64_t kCols = 2048;
constexpr int64_t kMatrixGroups = 32;  // of 16 output rows, packed once and copied
constexpr int64_t kColdBytes = int64_t{160}
                               << 20;  // of weights or KV cache, far beyond any last-level cache here
constexpr int64_t kMostCacheBytes = int64_t{1} << 30;  // of KV; what takes more is left out
constexpr int64_t kStreamedRows = 8;                   // of activations: up to here, weights come from memory
constexpr int64_t kChunkGroups = 16;
constexpr int kHeads = 16;
constexpr int kKvHeads = 4;
constexpr int kHeadDim = 128;

struct Flags {
  std::string backend = "cpu";
  int device = 0;
  bool fused = true;
  std::string isa = "auto";
  std::vector<std::string> types = {"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "MXFP4", "F16", "F32"};
  std::vector<int> rows = {1, 2, 4, 8, 16, 64, 256};
  std::vector<int> threads;
  std::vector<int> contexts = {512, 4096};
  double seconds = 0.3;
  bool json = false;
};

std::vector<float> Normal(int64_t n) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(rng);
  return x;
}

// Activations in both forms.
struct Rows {
  Rows(const KernelTable& kernels, int64_t count) : f32(Normal(count * kCols)) {
    std::vector<int8_t> q(static_cast<size_t>(kCols));
    std::vector<float> scale(static_cast<size_t>(kCols / kQuantBlock));
    blocks.resize(static_cast<size_t>(count * kCols / kQuantBlock));
    for (int64_t row = 0; row < count; ++row) {
      kernels.quantize(f32.data() + row * kCols, kCols, q.data(), scale.data());
      kernels.activation_blocks(q.data(), scale.data(), kCols, blocks.data() + row * kCols / kQuantBlock);
      index.push_back(static_cast<int32_t>(row));
    }
  }
  std::vector<float> f32;
  std::vector<ActivationBlock> blocks;
  std::vector<int32_t> index;
};

// Copies of one random matrix, one after the other, as if it were one with many rows.
struct Weights {
  PackedWeights packed;
  int64_t groups;
  AlignedBytes bytes;
};

absl::StatusOr<Weights> MakeWeights(DType dtype) {
  const int64_t rows = kMatrixGroups * kGroupRows;
  const std::vector<float> values = Normal(rows * kCols);
  std::vector<std::byte> file(static_cast<size_t>(RowBytes(dtype, kCols) * rows));
  for (int64_t r = 0; r < rows; ++r) {
    QuantizeRow(dtype, values.data() + r * kCols, kCols, file.data() + r * RowBytes(dtype, kCols));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const PackedMatrix one,
                           Pack({dtype, rows, kCols, file.data(), RowBytes(dtype, kCols), 0}));
  const size_t copies = static_cast<size_t>(kColdBytes) / one.bytes() + 1;
  MOEPOOL_ASSIGN_OR_RETURN(AlignedBytes bytes, AlignedBytes::Create(copies * one.bytes(), "weights"));
  for (size_t i = 0; i < copies; ++i) {
    std::memcpy(bytes.data() + i * one.bytes(), one.weights.data, one.bytes());
  }
  Weights w = {one.weights, static_cast<int64_t>(copies) * kMatrixGroups, std::move(bytes)};
  w.packed.data = reinterpret_cast<const uint8_t*>(w.bytes.data());
  return w;
}

int64_t CacheBlocks(int context) { return (context + kKvBlockTokens - 1) / kKvBlockTokens; }

// Of one sequence and layer, K and V.
int64_t CacheBytes(KvType type, int context) {
  return 2 * KvHeadBlockBytes(type, kHeadDim) * kKvHeads * CacheBlocks(context);
}

class KernelBench {
 public:
  KernelBench(const Flags& flags, const KernelTable& kernels, int threads)
      : flags_(flags), kernels_(kernels), pool_(threads) {}

  absl::StatusOr<json> Run() {
    MOEPOOL_ASSIGN_OR_RETURN(limits_, MeasureLimits(kernels_, &pool_, flags_.seconds));
    std::string read;
    for (const auto& [streams, gb_s] : limits_.read_gb_s) read += Format("  %d: %.1f", streams, gb_s);
    Note(Format("%s, threads %d   read GB/s by streams%s   int8 %.0f GOPS   f32 %.0f GFLOPS", kernels_.name,
                pool_.threads(), read.c_str(), limits_.int8_gops, limits_.f32_gflops));
    json results = json::array();
    for (const std::string& name : flags_.types) {
      MOEPOOL_ASSIGN_OR_RETURN(const DType dtype, DTypeFromName(name));
      MOEPOOL_ASSIGN_OR_RETURN(const Weights w, MakeWeights(dtype));
      for (const int rows : flags_.rows) results.push_back(Product(dtype, w, rows));
    }
    for (const auto& [type, name] : {std::pair{KvType::kF16, "F16"}, {KvType::kQ8_0, "Q8_0"}}) {
      for (const int context : flags_.contexts) {
        for (const int rows : flags_.rows) {
          for (const int sequences : {1, rows}) {
            if (CacheBytes(type, context) * sequences > kMostCacheBytes) continue;
            MOEPOOL_ASSIGN_OR_RETURN(json result,
                                     Attention(type, name, context, sequences, rows / sequences));
            results.push_back(std::move(result));
            if (rows == 1) break;
          }
        }
      }
    }
    return json{{"threads", pool_.threads()}, {"limits", ToJson(limits_)}, {"results", std::move(results)}};
  }

 private:
  template <typename... Args>
  static std::string Format(const char* format, Args... args) {
    char text[256];
    std::snprintf(text, sizeof(text), format, args...);
    return text;
  }
  void Note(const std::string& line) const {
    std::fprintf(flags_.json ? stderr : stdout, "%s\n", line.c_str());
    std::fflush(flags_.json ? stderr : stdout);
  }

  json Product(DType dtype, const Weights& w, int rows);
  absl::StatusOr<json> Attention(KvType type, const char* name, int context, int sequences, int rows);

  const Flags& flags_;
  const KernelTable& kernels_;
  ThreadPool pool_;
  MachineLimits limits_;
};

json KernelBench::Product(DType dtype, const Weights& w, int rows) {
  const Rows x(kernels_, rows);
  // Many rows compute for long on the same weights, so that a part of them does.
  const int64_t groups = rows <= kStreamedRows ? w.groups : std::min<int64_t>(w.groups, 4 * kMatrixGroups);
  const ActivationRows view = {x.blocks.data(), x.f32.data(), kCols, x.index.data(), rows};
  const int64_t width = groups * kGroupRows;
  std::vector<float> y(static_cast<size_t>(rows * width));
  const auto kernel = kernels_.matmul[static_cast<int>(dtype)];
  const int64_t chunks = (groups + kChunkGroups - 1) / kChunkGroups;
  const double seconds = FastestSeconds(flags_.seconds, [&] {
    pool_.ParallelFor(chunks, [&](int64_t i) {
      const int64_t begin = i * kChunkGroups;
      kernel(w.packed, begin, std::min(groups, begin + kChunkGroups), view, y.data() + begin * kGroupRows,
             width);
    });
  });
  const double gb_s = 1e-9 * static_cast<double>(groups * w.packed.group_bytes) / seconds;
  const double gops = 2e-9 * static_cast<double>(width * kCols * rows) / seconds;
  const double of_read = gb_s / limits_.best_read_gb_s;
  const double of_compute = gops / (Info(dtype).quantized ? limits_.int8_gops : limits_.f32_gflops);
  const std::string name(Info(dtype).name);
  Note(Format("matmul %-7s %4d rows  %8.1f GB/s (%3.0f %% of reading)  %8.1f GOPS (%3.0f %% of computing)",
              name.c_str(), rows, gb_s, 100 * of_read, gops, 100 * of_compute));
  return {{"kernel", "matmul"},
          {"type", name},
          {"rows", rows},
          {"gb_s", gb_s},
          {"gops", gops},
          {"of_read", of_read},
          {"of_compute", of_compute}};
}

// The last `rows` rows of each sequence, through the backend, which cuts the context into splits and shares
// them out. As in a step, each call is another layer's, so that the cache comes from memory.
absl::StatusOr<json> KernelBench::Attention(KvType type, const char* name, int context, int sequences,
                                            int rows) {
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend,
                           MakeBackend({"cpu", kernels_.name, pool_.threads()}));
  AttentionShape shape;
  shape.heads = kHeads;
  shape.kv_heads = kKvHeads;
  shape.head_dim = shape.rope_dims = kHeadDim;
  const int64_t layer_bytes = CacheBytes(type, context) * sequences / 2;
  const int64_t layers = kColdBytes / (2 * layer_bytes) + 1;
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<Buffer> k, backend->Allocate(layers * layer_bytes));
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<Buffer> v, backend->Allocate(layers * layer_bytes));
  for (Buffer* half : {k.get(), v.get()}) {
    std::memset(half->data(), 0x2c, half->bytes());  // untouched pages are all the same one
  }
  std::vector<int32_t> table(static_cast<size_t>(CacheBlocks(context) * sequences));
  std::iota(table.begin(), table.end(), 0);
  std::vector<const int32_t*> tables;
  std::vector<int32_t> position;
  double keys = 0;  // that all rows see
  for (int sequence = 0; sequence < sequences; ++sequence) {
    for (int row = context - rows; row < context; ++row) {
      tables.push_back(table.data() + CacheBlocks(context) * sequence);
      position.push_back(row);
      keys += row + 1;
    }
  }
  const int64_t all = int64_t{sequences} * rows;
  // Rotations by one angle, which leave lengths as they are: calls rotate what the one before left.
  const std::vector<float> cos(static_cast<size_t>(all) * kHeadDim / 2, 0.6f);
  const std::vector<float> sin(static_cast<size_t>(all) * kHeadDim / 2, 0.8f);
  std::vector<float> qkv = Normal(all * (kHeads + 2 * kKvHeads) * kHeadDim);
  std::vector<float> out(static_cast<size_t>(all) * kHeads * kHeadDim);
  const AttentionBatch batch = {static_cast<int>(all), position.data(), tables.data(), cos.data(),
                                sin.data()};
  int64_t call = 0;
  const double seconds = FastestSeconds(flags_.seconds, [&] {
    const int64_t offset = call++ % layers * layer_bytes;
    backend->Trunk().Attention(shape, batch, {type, k->data() + offset, v->data() + offset}, qkv.data(),
                               out.data());
  });
  const double gflops = 4e-9 * keys * kHeads * kHeadDim / seconds;
  const double gb_s = 1e-9 * static_cast<double>(2 * layer_bytes) / seconds;
  const double of_compute = gflops / limits_.f32_gflops;
  const double of_read = gb_s / limits_.best_read_gb_s;
  Note(Format(
      "attention %-4s %3d x %3d rows  context %5d  heads %d/%d of %d  %8.1f us  %7.1f GB/s (%3.0f %%)  "
      "%7.1f GFLOPS (%3.0f %%)",
      name, sequences, rows, context, kHeads, kKvHeads, kHeadDim, 1e6 * seconds, gb_s, 100 * of_read, gflops,
      100 * of_compute));
  return json{{"kernel", "attention"}, {"type", name},        {"sequences", sequences},
              {"rows", rows},  // of each
              {"context", context},    {"heads", kHeads},     {"kv_heads", kKvHeads},
              {"head_dim", kHeadDim},  {"us", 1e6 * seconds}, {"gb_s", gb_s},
              {"of_read", of_read},    {"gflops", gflops},    {"of_compute", of_compute}};
}

absl::Status RunOnGpu(const Flags& flags) {
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend,
                           MakeBackend({.backend = "cuda", .fused = flags.fused, .device = flags.device}));
  GpuBenchOptions options;
  options.types = flags.types;
  options.rows = flags.rows;
  options.contexts = flags.contexts;
  options.seconds = flags.seconds;
  Device* const device = &static_cast<CudaBackend*>(backend.get())->device();
  const auto note = [&](const std::string& line) {
    std::fprintf(flags.json ? stderr : stdout, "%s\n", line.c_str());
    std::fflush(flags.json ? stderr : stdout);
  };
  MOEPOOL_ASSIGN_OR_RETURN(json whole, BenchGpu(options, backend.get(), device, note));
  whole["bench"] = "kernels";
  whole["version"] = kVersion;
  if (flags.json) std::puts(whole.dump(2).c_str());
  return absl::OkStatus();
}

absl::Status Run(Flags flags) {
  if (flags.backend == "cuda") return RunOnGpu(flags);
  if (!flags.fused) return MakeBackend({.backend = "cpu", .fused = false}).status();
  const KernelTable* kernels = AvailableKernels().back();
  if (flags.isa != "auto") {
    MOEPOOL_RETURN_IF_ERROR(MakeBackend({"cpu", flags.isa, 1}).status());
    for (const KernelTable* table : AvailableKernels()) {
      if (flags.isa == table->name) kernels = table;
    }
  }
  for (const int context : flags.contexts) {
    for (const int rows : flags.rows) {
      if (rows > context) {
        return absl::InvalidArgumentError(StrCat("--rows ", rows, " is more than --contexts ", context));
      }
    }
  }
  if (flags.threads.empty()) {
    flags.threads = {1};
    const int cores = ProcessorCount();
    if (cores > 1) flags.threads.push_back(cores);
  }
  json runs = json::array();
  for (const int threads : flags.threads) {
    MOEPOOL_ASSIGN_OR_RETURN(json run, KernelBench(flags, *kernels, threads).Run());
    runs.push_back(std::move(run));
  }
  const json whole = {{"bench", "kernels"},
                      {"version", kVersion},
                      {"isa", kernels->name},
                      {"cols", kCols},
                      {"runs", std::move(runs)}};
  if (flags.json) std::puts(whole.dump(2).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddBenchKernelsCommand(CLI::App* app, CommandRunner* run) {
  CLI::App* command = app->add_subcommand(
      "kernels", "products and attention beside the machine's limits, which it measures first");
  auto flags = std::make_shared<Flags>();
  command->add_option("--backend", flags->backend, "cpu, or cuda: experts too, and no --isa and --threads")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--device", flags->device, "cuda: which of the machine's GPUs, counted from 0")
      ->check(CLI::Range(0, 1023))
      ->capture_default_str();
  AddOffFlag(command, "--no-fusion", &flags->fused, "cuda: launch kernels one by one that otherwise are one");
  command->add_option("--isa", flags->isa, "auto, scalar, avx2, avx512 or avx512vnni")->capture_default_str();
  command->add_option("--types", flags->types, StrCat("of weights: ", DTypeNames()))
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--rows", flags->rows, "of activations")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option(
          "--contexts", flags->contexts,
          "tokens that attention sees; rows are the last of one sequence, then those of as many sequences")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "each in turn; 1 and all cores where it is missing")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  command->add_option("--seconds", flags->seconds, "of each measurement")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
