#include "router/contention.h"

#include <algorithm>

namespace moepool {
namespace {

// A window has as many exchanges and lasts as long. What a first step costs, in pages that are new, is over
// by half of one.
constexpr int kWindowExchanges = 64;
constexpr absl::Duration kWindow = absl::Milliseconds(100);
// Beside computing an exchange may cost this, several times what it does where turns are quick, or this share
// of its time: there it is 1 to 4 %, and with scheduling groups apart 20 % and more.
constexpr absl::Duration kFair = absl::Microseconds(50);
constexpr int kFairShare = 8;
constexpr absl::Duration kFirstSleep = absl::Seconds(1);
constexpr absl::Duration kLongestSleep = absl::Seconds(32);  // trying again for 0.1 s in it costs little

}  // namespace

void HostContention::Add(absl::Duration exchange, absl::Duration compute, absl::Time now) {
  if (Asleep(now)) return;
  const absl::Duration own = exchange - compute;
  if (own > kFair && own * kFairShare > exchange) ++slow_;
  ++count_;
  time_ += exchange;
  if (count_ < kWindowExchanges || time_ < kWindow) return;
  if (2 * slow_ > count_) {
    asleep_for_ = std::clamp(2 * asleep_for_, kFirstSleep, kLongestSleep);
    asleep_until_ = now + asleep_for_;
  } else {
    asleep_for_ = absl::ZeroDuration();
  }
  count_ = slow_ = 0;
  time_ = absl::ZeroDuration();
}

}  // namespace moepool
