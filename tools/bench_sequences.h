// Runs sequences on a trunk and notes when each of their ids comes: what the phases of `moepool bench engine`
// are made of, the same for an engine in this process and for a router.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/trunk/trunk.h"

namespace moepool {

struct SequenceSpec {
  int prompt_tokens = 0;
  int new_tokens = 0;
};

// Of one sequence, in seconds of the steady clock.
struct Timeline {
  double submitted_s = 0;
  std::vector<double> ids_s;  // when each id came
};

enum class AdmissionPolicy {
  kContinuous,  // the next sequence as soon as one has ended
  kStatic       // the next group when all of the last have ended
};

// Prompts of random ids, greedy sampling, no stop ids, so that exactly the ids asked for are made. One caller
// at a time.
class SequenceRunner {
 public:
  // `trunk` outlives this. `patience`: for one Run.
  SequenceRunner(Trunk* trunk, const ModelInfo& model, uint64_t seed, absl::Duration patience);

  // Runs all of `specs` in their order, at most `at_once` at a time. `on_decoding`, if any, is called on the
  // caller's thread when every sequence has made its first id. FailedPrecondition where a prompt was found in
  // the prefix cache, for then not all of it was computed; DeadlineExceeded after `patience`; otherwise the
  // error of a sequence.
  absl::StatusOr<std::vector<Timeline>> Run(const std::vector<SequenceSpec>& specs, int at_once,
                                            AdmissionPolicy policy,
                                            const std::function<void()>& on_decoding = nullptr);
  absl::StatusOr<PoolInfo> Pool() { return trunk_->Pool(); }
  // Waits until the trunk has counted everything that was run, and returns its totals.
  absl::StatusOr<PoolInfo> IdlePool();

 private:
  std::vector<int32_t> RandomPrompt(int tokens);

  Trunk* const trunk_;
  const absl::Duration patience_;
  std::vector<int32_t> ids_;  // those that are text
  std::mt19937_64 random_;
};

// Tokens a second of sequences that decode together, over the time in which all do: from the moment at which
// the last of them has its first id until the first of them ends. The sum of their rates within that window,
// (ids - 1) / (last - first) each, so that where in a step the window's ends fall does not count.
// FailedPrecondition where some sequence has fewer than two ids in it.
absl::StatusOr<double> TogetherTokensPerSecond(const std::vector<Timeline>& timelines);

}  // namespace moepool
