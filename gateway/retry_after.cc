#include "gateway/retry_after.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace moepool {
namespace {

constexpr char kPayload[] = "moepool/retry_after_seconds";

}  // namespace

absl::Status WithRetryAfter(absl::Status status, int seconds) {
  status.SetPayload(kPayload, absl::Cord(absl::StrCat(seconds)));
  return status;
}

int RetryAfterSeconds(const absl::Status& status) {
  int seconds = 0;
  if (const auto given = status.GetPayload(kPayload);
      given.has_value() && absl::SimpleAtoi(std::string(*given), &seconds)) {
    return seconds;
  }
  const bool may_help = status.code() == absl::StatusCode::kResourceExhausted ||
                        status.code() == absl::StatusCode::kUnavailable;
  return may_help ? 1 : 0;
}

}  // namespace moepool
