// In how many micro-batches a step's rows go through the layers: 1, or 2, of which the trunk computes one
// while the other is with the workers. Two hide the network, and have trunk and workers compute side by side;
// but each of them reads the weights again. Which of the two weighs more differs by rows, model, network and
// devices, so both are timed: what is measured decides. All times come from the caller.
#pragma once

#include <array>
#include <vector>

#include "absl/time/time.h"

namespace moepool {

// How a step's layers went, all together.
struct LayersTime {
  int rows = 0;
  int micro_batches = 1;
  absl::Duration whole;
  absl::Duration waited;    // by the trunk, for parts
  absl::Duration computed;  // of each exchange, what the worker that took longest says
};

class MicroBatchChooser {
 public:
  // Steps of fewer rows are never cut: their time is that of reading weights.
  static constexpr int kFewestRows = 16;

  // For a step of so many rows.
  int Choose(int rows) const;
  // A step of Choose()'s went so.
  void Add(const LayersTime& time);
  // What the layers are expected to take in two micro-batches, as one and halves of it went; zero where no
  // step of so many rows has been timed.
  absl::Duration PredictTwo(int rows) const;

 private:
  // Moving averages, in seconds a row.
  struct Average {
    int count = 0;
    double whole = 0;
    double waited = 0;
    double computed = 0;
    void Add(const LayersTime& time);
  };
  // Steps of about as many rows.
  struct Bucket {
    std::array<Average, 2> of;  // [micro-batches - 1]
    int best = 1;
    int since = 0;     // steps since the last trial of the other
    int patience = 0;  // steps until the next; 0: not decided
    int trial = 0;     // steps of it that are to come
    double whole = 0;  // of the best, when it was last compared
    Average tried;     // in it
    const Average& Best() const { return of[static_cast<size_t>(best - 1)]; }
  };
  static size_t BucketOf(int rows);
  const Average* One(int rows) const;
  void BeginTrial(Bucket* bucket);

  std::vector<Bucket> buckets_;
};

}  // namespace moepool
