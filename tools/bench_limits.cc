// See bench_limits.h.
#include "tools/bench_limits.h"

#include <algorithm>
#include <cstring>

#include "common/base/aligned_bytes.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/kernels/probes.h"
#include "tools/bench_statistics.h"

namespace moepool {
namespace {

constexpr int64_t kReadBytes = int64_t{512} << 20;
constexpr int64_t kPassBytes = int64_t{128} << 20;  // then the next 128 MiB, so that no cache holds them
constexpr int64_t kAheadBytes = 8192;
constexpr int kStreams[] = {1, 2, 4, 8};
constexpr int64_t kRounds = 1 << 16;  // of a probe: under a millisecond
constexpr int64_t kPieces = 8;        // a thread's share, so that one that loses its core delays less

}  // namespace

double FastestSeconds(double seconds, absl::FunctionRef<void()> body) {
  double fastest = 1e30;
  const double end = SteadySeconds() + seconds;
  for (int calls = 0; calls < 3 || SteadySeconds() < end; ++calls) {
    const double begin = SteadySeconds();
    body();
    fastest = std::min(fastest, SteadySeconds() - begin);
  }
  return fastest;
}

nlohmann::json ToJson(const MachineLimits& limits) {
  nlohmann::json streams = nlohmann::json::object();
  for (const auto& [count, gb_s] : limits.read_gb_s) streams[StrCat(count)] = gb_s;
  return {{"read_gb_s", limits.best_read_gb_s},
          {"read_gb_s_by_streams", std::move(streams)},
          {"int8_gops", limits.int8_gops},
          {"f32_gflops", limits.f32_gflops}};
}

absl::StatusOr<MachineLimits> MeasureLimits(const KernelTable& kernels, ThreadPool* pool, double seconds) {
  MOEPOOL_ASSIGN_OR_RETURN(const AlignedBytes memory, AlignedBytes::Create(kReadBytes, "the read bandwidth"));
  std::memset(memory.data(), 1, memory.bytes());  // untouched pages are all the same one
  const Probes& probes = ProbesFor(kernels);
  const int64_t pieces = pool->threads() > 1 ? kPieces * pool->threads() : 1;
  MachineLimits limits;
  for (const int streams : kStreams) {
    const int64_t run_bytes = kPassBytes / pieces / streams / 256 * 256;
    for (const int64_t ahead_bytes : {int64_t{0}, kAheadBytes}) {
      int64_t pass = 0;
      const double fastest = FastestSeconds(seconds, [&] {
        const std::byte* const from = memory.data() + pass++ % (kReadBytes / kPassBytes) * kPassBytes;
        pool->ParallelFor(pieces, [&](int64_t i) {
          probes.read(from + i * streams * run_bytes, run_bytes, streams, ahead_bytes);
        });
      });
      double& best = limits.read_gb_s[streams];
      best = std::max(best, 1e-9 * static_cast<double>(pieces * streams * run_bytes) / fastest);
    }
    limits.best_read_gb_s = std::max(limits.best_read_gb_s, limits.read_gb_s[streams]);
  }
  const auto rate = [&](double (*probe)(int64_t)) {
    const double ops = probe(kRounds) * static_cast<double>(pieces);
    return 1e-9 * ops /
           FastestSeconds(seconds, [&] { pool->ParallelFor(pieces, [&](int64_t) { probe(kRounds); }); });
  };
  limits.int8_gops = rate(probes.dot);
  limits.f32_gflops = rate(probes.fma);
  return limits;
}

}  // namespace moepool
