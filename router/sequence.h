// One sequence as the engine holds it, and the handle by which its caller can end it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/base/strong_id.h"
#include "common/constrain/text_constraint.h"
#include "common/model/config.h"
#include "common/trunk/trunk.h"
#include "router/reasoning.h"

namespace moepool {

// Stands between the engine's thread and a call's owner: updates stop for good once Detach() has returned.
class UpdateGate {
 public:
  explicit UpdateGate(UpdateCallback on_update) : on_update_(std::move(on_update)) {}

  void Deliver(SequenceUpdate update) EXCLUDES(mutex_) {
    MutexLock lock(&mutex_);
    if (detached_) return;
    deliverer_.store(std::this_thread::get_id());
    on_update_(std::move(update));
    deliverer_.store({});
  }

  // May be called from inside the callback, which then is the last.
  void Detach() EXCLUDES(mutex_) {
    if (deliverer_.load() == std::this_thread::get_id()) {
      detached_ = true;
      return;
    }
    MutexLock lock(&mutex_);
    detached_ = true;
    on_update_ = nullptr;
  }

 private:
  Mutex mutex_;
  std::atomic<std::thread::id> deliverer_{};
  std::atomic<bool> detached_ = false;
  UpdateCallback on_update_;
};

// Owned by the engine's thread once it has left the queue.
struct Sequence {
  SequenceId id;
  SequenceRequest request;
  std::shared_ptr<UpdateGate> gate;
  std::vector<int32_t> tokens;  // prompt, then what was sampled
  int computed = 0;             // leading tokens in the KV cache; 0 while it waits
  RopeSet rope = RopeSet::kShort;
  // The first position of the prompt whose logits, or what they give the next id, the caller lacks; -1 where
  // it wants none.
  int next_logits = -1;
  absl::Time arrived;
  absl::Time admitted = absl::InfiniteFuture();  // for the first time
  int cached_tokens = 0;                         // that came from the prefix cache then
  double prefill_ms = 0;
  int preemptions = 0;
  int retries = 0;  // of steps that it was in
  // As the dispatcher had them when it was admitted.
  std::map<WorkerId, absl::Duration> round_trips_before;
  std::optional<TextMatcher> constraint;  // has seen what is generated
  ReasoningProgress reasoning;            // as well

  bool scores() const { return request.first_logits >= 0; }
  int prompt_tokens() const { return static_cast<int>(request.prompt.size()); }
  int generated() const { return static_cast<int>(tokens.size()) - prompt_tokens(); }
  // Most it can ever hold, which decides its rotation.
  int reach_tokens() const { return prompt_tokens() + (scores() ? 0 : request.max_tokens); }
  // Positions below this give their logits to the caller, from next_logits on.
  int logits_end() const {
    if (scores()) return prompt_tokens();
    return request.prompt_logprobs ? prompt_tokens() - 1 : -1;
  }
  bool wants_logits(int position) const { return position >= next_logits && position < logits_end(); }
  // What may come from the prefix cache: at least one position is computed, for its logits.
  std::span<const int32_t> reusable() const {
    return std::span(tokens).first(next_logits < logits_end() ? static_cast<size_t>(next_logits)
                                                              : tokens.size() - 1);
  }
};

}  // namespace moepool
