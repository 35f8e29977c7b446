// The phases of `moepool bench engine`: what each runs and the figures it makes of it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/time_histogram.h"
#include "tools/bench_sequences.h"
#include "tools/bench_statistics.h"

namespace moepool {

struct PhaseRepetitions {
  int warmup = 1;  // not counted
  int counted = 5;
};

struct PhaseResult {
  std::string phase;
  std::vector<std::pair<std::string, int64_t>> shape;  // what was run
  std::vector<std::pair<std::string, Summary>> figures;
  TimeHistogram exchange;  // of the layers of all counted repetitions, those of prefill left out in decode
  TimeHistogram exchange_own;  // and streams
};

// One request alone: prompt tokens over the time to the first id.
absl::StatusOr<PhaseResult> MeasurePrefill(SequenceRunner* runner, int prompt_tokens, PhaseRepetitions reps);
// One request alone: the ids after the first over the time from the first to the last.
absl::StatusOr<PhaseResult> MeasureDecode(SequenceRunner* runner, SequenceSpec spec, PhaseRepetitions reps);
// `streams` requests at once: TogetherTokensPerSecond.
absl::StatusOr<PhaseResult> MeasureStreams(SequenceRunner* runner, int streams, SequenceSpec spec,
                                           PhaseRepetitions reps);

struct BatchingSpec {
  int requests = 64;
  int running = 16;  // at most
  int prompt_tokens = 16;
  int min_tokens = 16;  // lengths are log-uniform between these, the same for both policies
  int max_tokens = 256;
  uint64_t seed = 1;
};
std::vector<int> LogUniformLengths(const BatchingSpec& spec);
// Continuous against static batching on the same engine, by turns: all ids over the time from the first
// request to the last id; and the sequences that decode in a step, on average, as a share of `running`.
absl::StatusOr<PhaseResult> MeasureBatching(SequenceRunner* runner, const BatchingSpec& spec,
                                            PhaseRepetitions reps);

}  // namespace moepool
