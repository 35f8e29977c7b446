// See time_histogram.h.
#include "common/base/time_histogram.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moepool {
namespace {

constexpr double kFirstBound = 1e-5;

}  // namespace

double TimeHistogram::UpperBound(int i) {
  return kFirstBound * std::pow(10.0, static_cast<double>(i) / kBucketsPerDecade);
}

void TimeHistogram::Add(double seconds) {
  int bucket = 0;
  if (seconds > kFirstBound) {
    const double place = std::log10(seconds / kFirstBound) * kBucketsPerDecade;
    bucket = static_cast<int>(std::min<double>(kBuckets - 1, std::ceil(place - 1e-9)));
  }
  counts_[static_cast<size_t>(bucket)] += 1;
  sum_seconds_ += seconds;
}

TimeHistogram TimeHistogram::Since(const TimeHistogram& earlier) const {
  TimeHistogram difference = *this;
  for (size_t i = 0; i < counts_.size(); ++i) difference.counts_[i] -= earlier.counts_[i];
  difference.sum_seconds_ -= earlier.sum_seconds_;
  return difference;
}

void TimeHistogram::Merge(const TimeHistogram& other) {
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  sum_seconds_ += other.sum_seconds_;
}

void TimeHistogram::Set(const std::array<uint64_t, kBuckets>& counts, double sum_seconds) {
  counts_ = counts;
  sum_seconds_ = sum_seconds;
}

uint64_t TimeHistogram::count() const { return std::accumulate(counts_.begin(), counts_.end(), uint64_t{0}); }

double TimeHistogram::Quantile(double q) const {
  const uint64_t all = count();
  if (all == 0) return 0;
  const double target = std::clamp(q, 0.0, 1.0) * static_cast<double>(all);
  double below = 0;
  for (int i = 0; i < kBuckets; ++i) {
    const auto here = static_cast<double>(counts_[static_cast<size_t>(i)]);
    if (here == 0 || below + here < target) {
      below += here;
      continue;
    }
    if (i == 0) return UpperBound(0);
    if (i == kBuckets - 1) return UpperBound(kBuckets - 2);
    return UpperBound(i - 1) * std::pow(UpperBound(i) / UpperBound(i - 1), (target - below) / here);
  }
  return UpperBound(kBuckets - 2);
}

}  // namespace moepool
