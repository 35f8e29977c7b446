// Sums over the last minute, kept in buckets of five seconds: the one under way and the eleven before it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/time/time.h"

namespace moepool {

// `width` sums side by side. A plain value: whoever owns it locks.
class LastMinute {
 public:
  explicit LastMinute(size_t width = 1) : width_(width) {}

  // [width] to be added to: what comes at `now`.
  std::span<uint64_t> At(absl::Time now) {
    const int64_t number = Number(now);
    Bucket& bucket = buckets_[static_cast<size_t>(number % kBuckets)];
    if (bucket.number != number) {
      bucket.number = number;
      bucket.sums.assign(width_, 0);
    }
    return bucket.sums;
  }

  // [width]: what came in the last Covered(now) before `now`.
  std::vector<uint64_t> Sums(absl::Time now) const {
    const int64_t number = Number(now);
    std::vector<uint64_t> total(width_, 0);
    for (const Bucket& bucket : buckets_) {
      if (bucket.number > number || bucket.number <= number - kBuckets) continue;
      for (size_t i = 0; i < width_; ++i) total[i] += bucket.sums[i];
    }
    return total;
  }

  // 55 to 60 seconds.
  static absl::Duration Covered(absl::Time now) {
    return now - (absl::UnixEpoch() + kBucket * static_cast<double>(Number(now) - (kBuckets - 1)));
  }

 private:
  static constexpr int64_t kBuckets = 12;
  static constexpr absl::Duration kBucket = absl::Seconds(5);
  // A clock may be set before 1970, but the buckets of that time are all one.
  static int64_t Number(absl::Time now) {
    return std::max<int64_t>(kBuckets, (now - absl::UnixEpoch()) / kBucket);
  }

  struct Bucket {
    int64_t number = 0;
    std::vector<uint64_t> sums;
  };
  size_t width_;
  std::array<Bucket, kBuckets> buckets_;
};

}  // namespace moepool
