// See micro_batch_chooser.h.
#include "router/micro_batch_chooser.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace moepool {
namespace {

constexpr int kBucketsAnOctave = 4;  // rows of a bucket differ by a fifth at most
constexpr double kNewest = 0.25;     // the newest step's weight in an average
constexpr int kSettled = 3;  // steps until an average is believed, the first of which touches new pages
constexpr int kTrialSteps = 3;
constexpr int kFirstPatience = 16;
constexpr int kUnlikelyPatience = 256;  // where two are expected to lose
constexpr int kMostPatience = 4096;
// What is tried replaces what is only if it is better by this much, so that noise does not.
constexpr double kBetter = 0.98;
// What steps take differs this much from what they took at the last trial: another is due.
constexpr double kChanged = 0.25;
// Of a step's time, where half of it has not been seen: a half is expected to take this, as weights are read
// all the same.
constexpr double kHalfOfUnseen = 0.75;

}  // namespace

void MicroBatchChooser::Average::Add(const LayersTime& time) {
  const double weight = count < kSettled ? 1.0 / (count + 1) : kNewest;
  const auto add = [&](double* average, absl::Duration taken) {
    *average += weight * (absl::ToDoubleSeconds(taken) / time.rows - *average);
  };
  add(&whole, time.whole);
  add(&waited, time.waited);
  add(&computed, time.computed);
  ++count;
}

size_t MicroBatchChooser::BucketOf(int rows) {
  const auto n = static_cast<uint32_t>(std::max(rows, kBucketsAnOctave));
  const int octave = std::bit_width(n) - 1;
  const uint32_t part = (n >> (octave - 2)) - kBucketsAnOctave;  // the two bits after the first
  return static_cast<size_t>(octave) * kBucketsAnOctave + part;
}

const MicroBatchChooser::Average* MicroBatchChooser::One(int rows) const {
  const size_t bucket = BucketOf(rows);
  if (bucket >= buckets_.size() || buckets_[bucket].of[0].count < kSettled) return nullptr;
  return &buckets_[bucket].of[0];
}

int MicroBatchChooser::Choose(int rows) const {
  const size_t number = BucketOf(rows);
  if (rows < kFewestRows || number >= buckets_.size()) return 1;
  const Bucket& bucket = buckets_[number];
  return bucket.trial > 0 ? 3 - bucket.best : bucket.best;
}

absl::Duration MicroBatchChooser::PredictTwo(int rows) const {
  const Average* const whole = One(rows);
  if (whole == nullptr) return absl::ZeroDuration();
  const Average* const half = One(rows / 2);
  const double scale = half != nullptr ? rows / 2.0 : rows * kHalfOfUnseen;
  const Average& of = half != nullptr ? *half : *whole;
  // Trunk, workers and network each have both halves to see to, and a half goes from one to the next.
  const double trunk = of.whole - of.waited;
  const double network = std::max(0.0, of.waited - of.computed);
  const double busiest = std::max({trunk, of.computed, network});
  return absl::Seconds(scale * std::max(2 * busiest, of.whole));
}

void MicroBatchChooser::BeginTrial(Bucket* bucket) {
  bucket->trial = kTrialSteps;
  bucket->tried = {};
}

void MicroBatchChooser::Add(const LayersTime& time) {
  if (time.rows < 1) return;
  const size_t number = BucketOf(time.rows);
  if (number >= buckets_.size()) buckets_.resize(number + 1);
  Bucket& bucket = buckets_[number];
  bucket.of[static_cast<size_t>(time.micro_batches - 1)].Add(time);
  if (time.rows < kFewestRows) return;
  if (bucket.trial > 0) {
    if (time.micro_batches == bucket.best) return;
    bucket.tried.Add(time);
    if (--bucket.trial > 0) return;
    bucket.since = 0;
    if (bucket.tried.whole < kBetter * bucket.Best().whole) {
      bucket.best = time.micro_batches;
      bucket.of[static_cast<size_t>(bucket.best - 1)] = bucket.tried;
      bucket.patience = kFirstPatience;
    } else {
      bucket.patience = std::min(2 * bucket.patience, kMostPatience);
    }
    bucket.whole = bucket.Best().whole;
    return;
  }
  ++bucket.since;
  if (bucket.Best().count < kSettled) return;
  if (bucket.patience == 0) {
    const bool promising = PredictTwo(time.rows) < kBetter * time.rows * absl::Seconds(bucket.Best().whole);
    bucket.patience = promising ? kFirstPatience : kUnlikelyPatience;
    if (promising) return BeginTrial(&bucket);
    bucket.whole = bucket.Best().whole;
  }
  if (std::abs(bucket.Best().whole - bucket.whole) > kChanged * bucket.whole) {
    bucket.patience = kFirstPatience;
  }
  if (bucket.since >= bucket.patience) BeginTrial(&bucket);
}

}  // namespace moepool
