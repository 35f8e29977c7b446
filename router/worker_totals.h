// What the exchanges with one worker add up to since it joined.
#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "common/trunk/trunk.h"
#include "router/last_minute.h"
#include "router/pool.h"

namespace moepool {

// A plain value: whoever owns it locks.
class WorkerTotals {
 public:
  void Add(const ExchangeReport& report, absl::Time now) {
    constexpr double kNewest = 0.1;  // its share in the moving average
    round_trip_ =
        dispatches_ == 0 ? report.round_trip : (1 - kNewest) * round_trip_ + kNewest * report.round_trip;
    dispatches_ += 1;
    rows_ += static_cast<uint64_t>(report.rows);
    compute_ += report.compute;
    sent_bytes_ += report.sent_bytes;
    received_bytes_ += report.received_bytes;
    dispatch_.Add(absl::ToDoubleSeconds(report.dispatch));
    combine_.Add(absl::ToDoubleSeconds(report.combine));
    busy_us_.At(now)[0] += static_cast<uint64_t>(absl::ToInt64Microseconds(report.compute));
  }

  // `age`: since the worker joined, for the part of the last minute in which it was busy.
  void Describe(absl::Time now, absl::Duration age, PoolWorkerInfo* info) const {
    info->dispatches = dispatches_;
    info->round_trip_us = absl::ToDoubleMicroseconds(round_trip_);
    info->rows = rows_;
    info->compute_us = static_cast<uint64_t>(absl::ToInt64Microseconds(compute_));
    info->sent_bytes = sent_bytes_;
    info->received_bytes = received_bytes_;
    info->dispatch = dispatch_;
    info->combine = combine_;
    info->dispatch_us = static_cast<uint64_t>(dispatch_.sum_seconds() * 1e6);
    info->combine_us = static_cast<uint64_t>(combine_.sum_seconds() * 1e6);
    const absl::Duration covered = std::min(age, LastMinute::Covered(now));
    const absl::Duration busy = absl::Microseconds(busy_us_.Sums(now)[0]);
    // A dispatch is counted when it has ended, so that the part that fell before is counted too.
    info->busy_ratio = covered > absl::ZeroDuration() ? std::min(1.0, absl::FDivDuration(busy, covered)) : 0;
  }

 private:
  uint64_t dispatches_ = 0;
  uint64_t rows_ = 0;
  uint64_t sent_bytes_ = 0;
  uint64_t received_bytes_ = 0;
  absl::Duration round_trip_;  // moving average
  absl::Duration compute_;
  TimeHistogram dispatch_;
  TimeHistogram combine_;
  LastMinute busy_us_;
};

}  // namespace moepool
