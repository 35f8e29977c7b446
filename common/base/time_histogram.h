// Counts of durations by size, fine enough to read p50 and p99 from, small enough to be copied with other
// totals at every step.
#pragma once

#include <array>
#include <cstdint>

namespace moepool {

// 20 buckets a decade from 10 us to 1 s (each 12 % wide), one below and one above. A plain value: whoever
// owns it locks.
class TimeHistogram {
 public:
  static constexpr int kBucketsPerDecade = 20;
  static constexpr int kDecades = 5;
  static constexpr int kBuckets = kBucketsPerDecade * kDecades + 2;

  void Add(double seconds);
  // What was added since `earlier`, which was a copy of this once.
  TimeHistogram Since(const TimeHistogram& earlier) const;
  void Merge(const TimeHistogram& other);

  uint64_t count() const;
  double sum_seconds() const { return sum_seconds_; }
  // In seconds, for q in [0, 1]: the place of the q-th duration, which counts as evenly spread (in the
  // logarithm) over its bucket. 0 where nothing was added.
  double Quantile(double q) const;

  // Of bucket i, in seconds; the last one has none.
  static double UpperBound(int i);
  const std::array<uint64_t, kBuckets>& counts() const { return counts_; }
  void Set(const std::array<uint64_t, kBuckets>& counts, double sum_seconds);

 private:
  std::array<uint64_t, kBuckets> counts_{};
  double sum_seconds_ = 0;
};

}  // namespace moepool
