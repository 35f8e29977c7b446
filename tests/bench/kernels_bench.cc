// Speed of matrix products and attention on real shapes. Not a test: prints GB/s of packed weights for one
// row, GMAC/s * 2 for many. Usage: kernels_bench [threads] [isa]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/backend/backend.h"
#include "common/tensor/quantize.h"

namespace moepool {
namespace {

constexpr double kSecondsACase = 0.4;

bool g_cpu_time = false;  // with one thread: what else runs on the machine then shows less

double Now() {
  timespec t;
  clock_gettime(g_cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Seconds of one call, the least of many.
template <typename Body>
double Time(const Body& body) {
  body();
  double best = 1e9;
  const double end = Now() + kSecondsACase;
  while (Now() < end) {
    const double begin = Now();
    body();
    best = std::min(best, Now() - begin);
  }
  return best;
}

std::vector<float> Normal(int64_t n) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng);
  return x;
}

// Copies of the matrix that together exceed the last-level cache, so that one row reads weights from memory.
constexpr int64_t kColdBytes = int64_t{160} << 20;

void MatMul(Backend* backend, DType dtype, int64_t rows, int64_t cols) {
  const std::vector<float> values = Normal(rows * cols);
  std::vector<std::byte> bytes(RowBytes(dtype, cols) * rows);
  for (int64_t r = 0; r < rows; ++r) {
    QuantizeRow(dtype, values.data() + r * cols, cols, bytes.data() + r * RowBytes(dtype, cols));
  }
  std::vector<std::unique_ptr<Matrix>> copies;
  int64_t held = 0;
  while (held < kColdBytes) {
    auto w = backend->Load({dtype, rows, cols, bytes.data(), RowBytes(dtype, cols), 0}, {});
    if (!w.ok()) return;
    held += static_cast<int64_t>((*w)->bytes());
    copies.push_back(*std::move(w));
  }
  std::vector<float> x = Normal(64 * cols);
  std::vector<float> y(64 * rows);
  std::vector<int8_t> q(x.size());
  std::vector<float> scale(x.size() / 32);
  std::vector<uint8_t> faults(64);
  Activations a = {64, static_cast<int>(cols), x.data(), q.data(), scale.data()};
  backend->Trunk().Quantize(&a, faults);
  const auto product = [&](const Matrix& w, int tokens) {
    a.rows = tokens;
    backend->Trunk().MatMul(w, a, nullptr, nullptr, y.data(), rows);
  };
  const double cold = Time([&] {
                        for (const auto& w : copies) product(*w, 1);
                      }) /
                      static_cast<double>(copies.size());
  const double warm = Time([&] { product(*copies[0], 1); });
  const double many = Time([&] { product(*copies[0], 64); });
  const double weight_bytes = static_cast<double>(copies[0]->bytes());
  std::printf(
      "%-6s %6lld x %-5lld  1 row: %6.1f GB/s from memory, %6.1f from cache (%6.1f us)   64 rows: %7.1f "
      "GOPS\n",
      std::string(Info(dtype).name).c_str(), static_cast<long long>(rows), static_cast<long long>(cols),
      weight_bytes / cold * 1e-9, weight_bytes / warm * 1e-9, warm * 1e6,
      2.0 * 64 * static_cast<double>(rows * cols) / many * 1e-9);
}

void Attention(Backend* backend, KvType type, int heads, int kv_heads, int head_dim, int context, int rows,
               int window = 0) {
  AttentionShape shape;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.rope_dims = head_dim;
  shape.window = window;
  const int blocks = context / kKvBlockTokens + 1;
  const size_t bytes = static_cast<size_t>(KvHeadBlockBytes(type, head_dim)) * kv_heads * blocks;
  auto k = backend->Allocate(bytes);
  auto v = backend->Allocate(bytes);
  if (!k.ok() || !v.ok()) return;
  std::vector<int32_t> table(blocks);
  for (int i = 0; i < blocks; ++i) table[i] = i;
  const std::vector<const int32_t*> tables(rows, table.data());
  std::vector<int32_t> position(rows);
  for (int i = 0; i < rows; ++i) position[i] = context - rows + i;
  const std::vector<float> angles(rows * head_dim / 2, 0.5f);
  std::vector<float> qkv = Normal(int64_t{rows} * (heads + 2 * kv_heads) * head_dim);
  std::vector<float> out(int64_t{rows} * heads * head_dim);
  const AttentionBatch batch = {rows, position.data(), tables.data(), angles.data(), angles.data()};
  const double seconds = Time([&] {
    backend->Trunk().Attention(shape, batch, {type, (*k)->data(), (*v)->data()}, qkv.data(), out.data());
  });
  const char* const name = type == KvType::kF16 ? "F16" : type == KvType::kF32 ? "F32" : "Q8_0";
  std::printf("attention %-4s %d/%d heads of %d, context %5d, window %4d, %3d rows: %8.1f us\n", name, heads,
              kv_heads, head_dim, context, window, rows, seconds * 1e6);
}

// The FFN of SmolLM2 as 16 slices: gate and up [96, 576], down [576, 96].
void Experts(Backend* backend, DType dtype, int hidden, int ffn, int experts, int rows, int selected) {
  std::vector<std::unique_ptr<ExpertWeights>> owned;
  std::vector<const ExpertWeights*> pointers;
  const auto load = [&](int64_t r, int64_t c) {
    const std::vector<float> values = Normal(r * c);
    std::vector<std::byte> bytes(RowBytes(dtype, c) * r);
    for (int64_t i = 0; i < r; ++i)
      QuantizeRow(dtype, values.data() + i * c, c, bytes.data() + i * RowBytes(dtype, c));
    return *backend->Load({dtype, r, c, bytes.data(), RowBytes(dtype, c), 0}, {});
  };
  for (int e = 0; e < experts; ++e) {
    owned.push_back(std::make_unique<ExpertWeights>());
    owned.back()->gate = load(ffn, hidden);
    owned.back()->up = load(ffn, hidden);
    owned.back()->down = load(hidden, ffn);
    pointers.push_back(owned.back().get());
  }
  std::vector<float> x = Normal(int64_t{rows} * hidden);
  std::vector<int8_t> q(x.size());
  std::vector<float> scale(x.size() / 32);
  std::vector<uint8_t> faults(rows);
  Activations a = {rows, hidden, x.data(), q.data(), scale.data()};
  backend->Trunk().Quantize(&a, faults);
  std::vector<ExpertPart> parts;
  std::vector<ExpertEntry> entries;
  for (int row = 0; row < rows; ++row) {
    parts.push_back({row, row * selected, (row + 1) * selected});
    for (int i = 0; i < selected; ++i)
      entries.push_back({i * (experts / selected) + row % (experts / selected), 1.0f});
  }
  std::vector<float> out(int64_t{rows} * hidden);
  const double seconds = Time([&] {
    backend->Experts().Run(pointers, {a, parts, entries}, out.data(), faults);
  });
  std::printf("experts %s %d of %d, hidden %d, ffn %d, %3d rows: %8.1f us, %7.1f GOPS\n",
              std::string(Info(dtype).name).c_str(), selected, experts, hidden, ffn, rows, seconds * 1e6,
              6.0 * rows * selected * hidden * ffn / seconds * 1e-9);
}

}  // namespace
}  // namespace moepool

int main(int argc, char** argv) {
  using namespace moepool;
  BackendOptions options;
  if (argc > 1) options.threads = std::atoi(argv[1]);
  if (argc > 2) options.isa = argv[2];
  auto backend = MakeBackend(options);
  if (!backend.ok()) {
    std::fprintf(stderr, "%s\n", backend.status().ToString().c_str());
    return 1;
  }
  g_cpu_time = options.threads == 1;
  Backend* const b = backend->get();
  MatMul(b, DType::kQ4_1, 576, 576);
  MatMul(b, DType::kQ4_1, 1536, 576);
  MatMul(b, DType::kQ4_1, 576, 1536);
  MatMul(b, DType::kQ8_0, 49152, 576);
  MatMul(b, DType::kQ4_0, 2048, 3584);
  for (DType dtype : {DType::kQ5_0, DType::kQ5_1, DType::kIQ4_NL, DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,
                      DType::kQ4_K, DType::kQ5_K, DType::kQ6_K}) {
    MatMul(b, dtype, 2048, 4096);
  }
  MatMul(b, DType::kF16, 2048, 2048);
  MatMul(b, DType::kF32, 1024, 1024);
  for (int rows : {1, 64}) {
    for (KvType type : {KvType::kF16, KvType::kQ8_0}) {
      for (int context : {128, 1024}) Attention(b, type, 9, 3, 64, context, rows);
      Attention(b, type, 32, 8, 128, 4096, rows);
      Attention(b, type, 16, 16, 128, 4096, rows);
      Attention(b, type, 32, 8, 128, 4096, rows, 1024);
    }
  }
  for (int rows : {1, 16, 64, 512}) Experts(b, DType::kQ4_1, 576, 96, 16, rows, 16);
  for (int rows : {1, 16, 64}) Experts(b, DType::kQ4_0, 2048, 1024, 16, rows, 2);
  return 0;
}
