#include "router/contention.h"

#include <algorithm>

namespace moepool {
namespace {

// A window has as many exchanges and lasts as long, so that no single one decides.
constexpr int kWindowExchanges = 32;
constexpr absl::Duration kWindow = absl::Milliseconds(100);
// What an exchange may cost beside computing, several times what it does where turns are quick.
constexpr absl::Duration kFair = absl::Microseconds(50);
// Where turns are quick, 1 to 4 % of the time is lost; with scheduling groups apart, 20 % and more.
constexpr int kLostShare = 8;
constexpr absl::Duration kFirstSleep = absl::Seconds(1);
constexpr absl::Duration kLongestSleep = absl::Seconds(32);  // trying again for 0.1 s in it costs little

}  // namespace

void HostContention::Add(absl::Duration exchange, absl::Duration compute, absl::Time now) {
  if (Asleep(now)) return;
  exchanges_ += exchange;
  lost_ += std::max(absl::ZeroDuration(), exchange - compute - kFair);
  if (++count_ < kWindowExchanges || exchanges_ < kWindow) return;
  if (lost_ * kLostShare > exchanges_) {
    asleep_for_ = std::clamp(2 * asleep_for_, kFirstSleep, kLongestSleep);
    asleep_until_ = now + asleep_for_;
  } else {
    asleep_for_ = absl::ZeroDuration();
  }
  count_ = 0;
  exchanges_ = lost_ = absl::ZeroDuration();
}

}  // namespace moepool
