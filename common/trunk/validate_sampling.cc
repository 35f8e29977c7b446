#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/trunk/trunk.h"

namespace moepool {
namespace {

absl::Status OutOfRange(const char* name, double value, const char* range) {
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, ", not in ", range));
}

}  // namespace

// Each test is written so that NaN fails it.
absl::Status ValidateSampling(const SamplingParams& p) {
  if (!(p.temperature >= 0 && std::isfinite(p.temperature)))
    return OutOfRange("temperature", p.temperature, "[0, inf)");
  if (!(p.top_p > 0 && p.top_p <= 1)) return OutOfRange("top_p", p.top_p, "(0, 1]");
  if (p.top_k < 0) return OutOfRange("top_k", p.top_k, "[0, inf)");
  if (!(p.min_p >= 0 && p.min_p <= 1)) return OutOfRange("min_p", p.min_p, "[0, 1]");
  if (!(p.presence_penalty >= -2 && p.presence_penalty <= 2)) {
    return OutOfRange("presence_penalty", p.presence_penalty, "[-2, 2]");
  }
  if (!(p.frequency_penalty >= -2 && p.frequency_penalty <= 2)) {
    return OutOfRange("frequency_penalty", p.frequency_penalty, "[-2, 2]");
  }
  if (!(p.repetition_penalty > 0 && p.repetition_penalty <= 10)) {
    return OutOfRange("repetition_penalty", p.repetition_penalty, "(0, 10]");
  }
  return absl::OkStatus();
}

}  // namespace moepool
