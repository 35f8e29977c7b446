// How much a gateway holds at once. Over a limit, clients are told when to come back rather than queued.
//
// A request is in flight from its admission to its end: queued until its first token, running from then on.
// It takes a place for each of its answers, and its tokens are those of its prompt and the most that its
// answers may have.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"

namespace moepool {

struct AdmissionLimits {
  int max_requests = 256;        // places in flight
  int max_queue_requests = 0;    // places queued; 0: no limit but max_requests
  int64_t max_queue_tokens = 0;  // tokens in flight; 0: no limit
};

// How fast something has gone of late. Not thread-safe.
class RecentRate {
 public:
  void Add(absl::Time now, double amount);
  // Whole seconds until `amount` more has gone by at the rate of the last minute, from 1 to 60. Where less
  // than two things have gone by in it, as long as has passed since the last, or since `begin`.
  int SecondsFor(absl::Time now, double amount, absl::Time begin) const;

 private:
  std::deque<std::pair<absl::Time, double>> events_;  // the latest, oldest first
};

// Thread-safe.
class Admission {
 public:
  using Clock = std::function<absl::Time()>;
  explicit Admission(const AdmissionLimits& limits, Clock clock = absl::Now)
      : limits_(limits), clock_(std::move(clock)) {}

  // Places and tokens, given back when destroyed. The Admission outlives it.
  class Ticket {
   public:
    Ticket(Admission* admission, int places) : admission_(admission), places_(places) {}
    ~Ticket() { admission_->Leave(*this); }
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;
    // Takes tokens as well, once. InvalidArgument where no gateway that is empty could; ResourceExhausted
    // with the time to come back.
    absl::Status TakeTokens(int64_t tokens) { return admission_->TakeTokens(this, tokens); }
    // The first token has come: queued no longer.
    void Start() { admission_->Start(this); }

   private:
    friend class Admission;
    Admission* const admission_;
    const int places_;
    // Under the admission's mutex.
    int64_t tokens_ = 0;
    bool started_ = false;
  };

  // All of `places` or none. ResourceExhausted names the limit and the time to come back; Unavailable once
  // drained.
  absl::StatusOr<std::unique_ptr<Ticket>> Admit(int places = 1);
  // What a single request can have.
  int max_places() const;
  // 0: no limit.
  int64_t max_tokens() const { return limits_.max_queue_tokens; }
  // Admits nobody from now on.
  void Drain();
  bool draining() const;

  struct Load {
    int running = 0;
    int queued = 0;
    int64_t tokens = 0;  // in flight
  };
  Load load() const;
  int in_flight() const {
    const Load now = load();
    return now.running + now.queued;
  }

 private:
  absl::Status TakeTokens(Ticket* ticket, int64_t tokens);
  void Start(Ticket* ticket);
  void Leave(const Ticket& ticket);

  const AdmissionLimits limits_;
  const Clock clock_;
  mutable Mutex mutex_;
  Load load_ GUARDED_BY(mutex_);
  bool draining_ GUARDED_BY(mutex_) = false;
  absl::Time busy_since_ GUARDED_BY(mutex_);  // when the first of those in flight came
  RecentRate ended_ GUARDED_BY(mutex_);       // places
  RecentRate started_ GUARDED_BY(mutex_);     // places
  RecentRate tokens_ended_ GUARDED_BY(mutex_);
};

}  // namespace moepool
