#include "gateway/admission.h"

#include "absl/strings/str_cat.h"

namespace moepool {

absl::StatusOr<std::unique_ptr<Admission::Ticket>> Admission::Admit(int places) {
  if (draining_.load()) return absl::UnavailableError("the gateway is shutting down");
  int in_flight = in_flight_.load();
  do {
    if (in_flight + places > max_requests_) {
      return absl::ResourceExhaustedError(absl::StrCat(
          in_flight, " requests are in flight, and this gateway takes ", max_requests_, " at most"));
    }
  } while (!in_flight_.compare_exchange_weak(in_flight, in_flight + places));
  return std::make_unique<Ticket>(this, places);
}

}  // namespace moepool
