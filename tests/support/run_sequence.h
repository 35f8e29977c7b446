// Runs one sequence of a trunk to its end.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "common/trunk/trunk.h"

namespace moepool {

struct SequenceResult {
  absl::Status status;
  FinishReason reason = FinishReason::kNone;
  std::vector<int32_t> ids;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  int32_t cached_tokens = 0;
  std::vector<LogitsRow> logits;
};

inline SequenceResult RunSequence(Trunk* trunk, SequenceRequest request) {
  Mutex mutex;
  CondVar changed;
  bool finished = false;
  SequenceResult result;
  const auto call = trunk->Generate(std::move(request), [&](SequenceUpdate update) {
    MutexLock lock(&mutex);
    result.ids.insert(result.ids.end(), update.ids.begin(), update.ids.end());
    for (TokenLogprobs& logprobs : update.logprobs) result.logprobs.push_back(std::move(logprobs));
    for (TokenLogprobs& logprobs : update.prompt_logprobs) {
      result.prompt_logprobs.push_back(std::move(logprobs));
    }
    for (LogitsRow& row : update.logits) result.logits.push_back(std::move(row));
    if (!update.finished) return;
    result.status = update.status;
    result.reason = update.reason;
    result.cached_tokens = update.cached_tokens;
    finished = true;
    changed.NotifyAll();
  });
  if (!call.ok()) {
    result.status = call.status();
    return result;
  }
  MutexLock lock(&mutex);
  while (!finished) changed.Wait(&mutex);
  return result;
}

}  // namespace moepool
