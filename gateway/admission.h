// How many requests a gateway holds at once. Over the limit, clients are told to come back rather than
// queued.
#pragma once

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"

namespace moepool {

// Thread-safe.
class Admission {
 public:
  explicit Admission(int max_requests) : max_requests_(max_requests) {}

  // Places, given back when destroyed. The Admission outlives it.
  class Ticket {
   public:
    Ticket(Admission* admission, int places) : admission_(admission), places_(places) {}
    ~Ticket() { admission_->in_flight_.fetch_sub(places_); }
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;

   private:
    Admission* const admission_;
    const int places_;
  };

  // All of `places` or none. ResourceExhausted names the limit; Unavailable once drained.
  absl::StatusOr<std::unique_ptr<Ticket>> Admit(int places = 1);
  int max_requests() const { return max_requests_; }
  // Admits nobody from now on.
  void Drain() { draining_.store(true); }
  bool draining() const { return draining_.load(); }
  int in_flight() const { return in_flight_.load(); }

 private:
  const int max_requests_;
  std::atomic<int> in_flight_{0};
  std::atomic<bool> draining_{false};
};

}  // namespace moepool
