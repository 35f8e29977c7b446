// See bench_statistics.h.
#include "tools/bench_statistics.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

namespace moepool {

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Percentile(const std::vector<double>& sorted, double q) {
  const double place = std::clamp(q, 0.0, 1.0) * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - static_cast<double>(below));
}

Summary Summarize(std::vector<double> values) {
  Summary summary;
  summary.values = values;
  std::sort(values.begin(), values.end());
  summary.median = Percentile(values, 0.5);
  summary.min = values.front();
  summary.max = values.back();
  return summary;
}

nlohmann::json ToJson(const Summary& s) {
  return {{"median", s.median}, {"min", s.min}, {"max", s.max}, {"values", s.values}};
}

std::optional<Distribution> Describe(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  std::sort(values.begin(), values.end());
  Distribution d;
  d.count = values.size();
  d.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  d.p50 = Percentile(values, 0.5);
  d.p90 = Percentile(values, 0.9);
  d.p99 = Percentile(values, 0.99);
  d.min = values.front();
  d.max = values.back();
  return d;
}

nlohmann::json ToJson(const std::optional<Distribution>& d) {
  if (!d.has_value()) return nullptr;
  return {{"count", d->count}, {"mean", d->mean}, {"p50", d->p50}, {"p90", d->p90},
          {"p99", d->p99},     {"min", d->min},   {"max", d->max}};
}

size_t CountMet(const std::vector<RequestTimes>& requests, const Objective& objective) {
  return static_cast<size_t>(
      std::count_if(requests.begin(), requests.end(), [&](const RequestTimes& request) {
        if (objective.ttft_ms.has_value() && request.ttft_ms > *objective.ttft_ms) return false;
        return !objective.tpot_ms.has_value() || request.tpot_ms.value_or(0) <= *objective.tpot_ms;
      }));
}

std::vector<double> PoissonArrivals(double rate_per_s, size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<double> due;
  double now = 0;
  for (size_t i = 0; i < count; ++i) {
    // 53 random bits as a number in (0, 1]; the library's own distributions differ between libraries.
    const double u = (static_cast<double>(random() >> 11) + 1) * 0x1p-53;
    now -= std::log(u) / rate_per_s;
    due.push_back(now);
  }
  return due;
}

}  // namespace moepool
