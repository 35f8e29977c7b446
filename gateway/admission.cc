#include "gateway/admission.h"

#include "absl/strings/str_cat.h"

namespace moepool {

absl::StatusOr<std::unique_ptr<Admission::Ticket>> Admission::Admit() {
  if (draining_.load()) return absl::UnavailableError("the gateway is shutting down");
  if (in_flight_.fetch_add(1) >= max_requests_) {
    in_flight_.fetch_sub(1);
    return absl::ResourceExhaustedError(
        absl::StrCat(max_requests_, " requests are in flight, the most this gateway takes"));
  }
  return std::make_unique<Ticket>(this);
}

}  // namespace moepool
