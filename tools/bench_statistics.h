// Figures of measurements: medians and ranges over repetitions, percentiles over requests, and when the
// requests of an open loop are due.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "nlohmann/json.hpp"

namespace moepool {

// Of the clock by which everything here is measured.
double SteadySeconds();

// Over repetitions, in their order.
struct Summary {
  double median = 0;
  double min = 0;
  double max = 0;
  std::vector<double> values;
};
Summary Summarize(std::vector<double> values);  // not empty
nlohmann::json ToJson(const Summary& summary);

// Over requests or tokens.
struct Distribution {
  size_t count = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double min = 0;
  double max = 0;
};
std::optional<Distribution> Describe(std::vector<double> values);  // none of nothing
nlohmann::json ToJson(const std::optional<Distribution>& distribution);

// Of ascending values, for q in [0, 1]; between two of them in proportion.
double Percentile(const std::vector<double>& sorted, double q);

// What a request took, as a service promises it.
struct RequestTimes {
  double ttft_ms = 0;             // first send to the first token
  std::optional<double> tpot_ms;  // from the first token to the last, for each after the first; none of one
  double e2e_ms = 0;
};
struct Objective {
  std::optional<double> ttft_ms = {};
  std::optional<double> tpot_ms = {};
};
// How many requests kept to all of the bounds given. A request of one token keeps to any bound on tpot_ms.
size_t CountMet(const std::vector<RequestTimes>& requests, const Objective& objective);

// When each of `count` requests is due, in seconds from the start: a Poisson process of `rate_per_s`, the
// same for the same seed. The first is due after a gap like any other.
std::vector<double> PoissonArrivals(double rate_per_s, size_t count, uint64_t seed);

}  // namespace moepool
