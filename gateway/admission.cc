#include "gateway/admission.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "gateway/retry_after.h"

namespace moepool {
namespace {

constexpr absl::Duration kWindow = absl::Minutes(1);
constexpr size_t kMaxEvents = 128;
constexpr double kMinSeconds = 1;
constexpr double kMaxSeconds = 60;

int Whole(double seconds) {
  return static_cast<int>(std::ceil(std::clamp(seconds, kMinSeconds, kMaxSeconds)));
}

}  // namespace

void RecentRate::Add(absl::Time now, double amount) {
  events_.emplace_back(now, amount);
  if (events_.size() > kMaxEvents) events_.pop_front();
}

int RecentRate::SecondsFor(absl::Time now, double amount, absl::Time begin) const {
  double sum = 0;  // after the first of the window, from which on time is counted
  absl::Time first = absl::InfiniteFuture();
  for (const auto& [time, part] : events_) {
    if (time < now - kWindow) continue;
    if (first == absl::InfiniteFuture()) {
      first = time;
    } else {
      sum += part;
    }
  }
  if (sum > 0) return Whole(amount * absl::ToDoubleSeconds(now - first) / sum);
  const absl::Time last = events_.empty() ? begin : std::max(begin, events_.back().first);
  return Whole(absl::ToDoubleSeconds(now - last));
}

absl::StatusOr<std::unique_ptr<Admission::Ticket>> Admission::Admit(int places) {
  const absl::Time now = clock_();
  MutexLock lock(&mutex_);
  if (draining_) return absl::UnavailableError("the gateway is shutting down");
  const int in_flight = load_.running + load_.queued;
  if (const int over = in_flight + places - limits_.max_requests; over > 0) {
    return WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat(
            in_flight, " requests are in flight, and this gateway takes ", limits_.max_requests, " at most")),
        ended_.SecondsFor(now, over, busy_since_));
  }
  if (const int over = load_.queued + places - limits_.max_queue_requests;
      limits_.max_queue_requests > 0 && over > 0) {
    return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                              load_.queued, " requests wait for their first token, and this gateway lets ",
                              limits_.max_queue_requests, " wait at most")),
                          started_.SecondsFor(now, over, busy_since_));
  }
  if (in_flight == 0) busy_since_ = now;
  load_.queued += places;
  return std::make_unique<Ticket>(this, places);
}

absl::Status Admission::TakeTokens(Ticket* ticket, int64_t tokens) {
  const int64_t limit = limits_.max_queue_tokens;
  if (limit > 0 && tokens > limit) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt and max_tokens of all answers make ", tokens,
                                                   " tokens, and this gateway takes ", limit, " at once"));
  }
  const absl::Time now = clock_();
  MutexLock lock(&mutex_);
  if (const int64_t over = load_.tokens + tokens - limit; limit > 0 && over > 0) {
    return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                              load_.tokens, " tokens of prompts and answers are in flight, and with ", tokens,
                              " more they would be over the ", limit, " that this gateway takes")),
                          tokens_ended_.SecondsFor(now, static_cast<double>(over), busy_since_));
  }
  load_.tokens += tokens;
  ticket->tokens_ += tokens;
  return absl::OkStatus();
}

void Admission::Start(Ticket* ticket) {
  const absl::Time now = clock_();
  MutexLock lock(&mutex_);
  if (std::exchange(ticket->started_, true)) return;
  load_.queued -= ticket->places_;
  load_.running += ticket->places_;
  started_.Add(now, ticket->places_);
}

void Admission::Leave(const Ticket& ticket) {
  const absl::Time now = clock_();
  MutexLock lock(&mutex_);
  (ticket.started_ ? load_.running : load_.queued) -= ticket.places_;
  load_.tokens -= ticket.tokens_;
  if (ticket.tokens_ == 0) return;  // nothing was generated, which says nothing of how fast that goes
  if (!ticket.started_) started_.Add(now, ticket.places_);
  ended_.Add(now, ticket.places_);
  tokens_ended_.Add(now, static_cast<double>(ticket.tokens_));
}

int Admission::max_places() const {
  return limits_.max_queue_requests > 0 ? std::min(limits_.max_requests, limits_.max_queue_requests)
                                        : limits_.max_requests;
}

void Admission::Drain() {
  MutexLock lock(&mutex_);
  draining_ = true;
}

bool Admission::draining() const {
  MutexLock lock(&mutex_);
  return draining_;
}

Admission::Load Admission::load() const {
  MutexLock lock(&mutex_);
  return load_;
}

}  // namespace moepool
