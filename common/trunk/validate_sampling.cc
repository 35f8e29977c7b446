#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/trunk/trunk.h"

namespace moepool {
namespace {

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

absl::Status OutOfRange(const char* name, double value, const char* range) {
  return Invalid(name, " is ", value, ", not in ", range);
}

// Written so that NaN is out of it.
absl::Status CheckRange(const char* name, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Invalid(name, " is ", value, ", not in [", low, ", ", high, "]");
}

absl::Status CheckAtLeast(const char* name, int32_t value, int32_t low) {
  if (value >= low) return absl::OkStatus();
  return Invalid(name, " is ", value, ", less than ", low);
}

absl::Status CheckBiases(const std::vector<LogitBias>& biases) {
  if (biases.size() > kMaxLogitBiases) {
    return Invalid("logit_bias has ", biases.size(), " entries, more than ", kMaxLogitBiases);
  }
  for (size_t i = 0; i < biases.size(); ++i) {
    const LogitBias& b = biases[i];
    if (!(b.bias >= -100 && b.bias <= 100)) {
      return Invalid("logit_bias[", b.id, "] is ", b.bias, ", not in [-100, 100]");
    }
    if (i == 0 || biases[i - 1].id < b.id) continue;
    if (biases[i - 1].id == b.id) return Invalid("logit_bias[", b.id, "] is given twice");
    return Invalid("logit_bias[", b.id, "] comes after that of ", biases[i - 1].id,
                   ", not in ascending order");
  }
  return absl::OkStatus();
}

absl::Status CheckDry(const DryParams& dry) {
  for (const absl::Status& status :
       {CheckRange("dry_multiplier", dry.multiplier, 0, 100), CheckRange("dry_base", dry.base, 1, 100),
        CheckAtLeast("dry_allowed_length", dry.allowed_length, 0),
        CheckAtLeast("dry_penalty_last_n", dry.penalty_last_n, -1)}) {
    if (!status.ok()) return status;
  }
  size_t ids = dry.breaker_ids.size();
  for (const std::vector<int32_t>& sequence : dry.breaker_sequences) {
    if (sequence.size() < 2 || sequence.size() > kMaxDryBreakerLength) {
      return Invalid("dry_sequence_breakers have a sequence of ", sequence.size(), " ids, not in [2, ",
                     kMaxDryBreakerLength, "]");
    }
    ids += sequence.size();
  }
  if (ids > kMaxDryBreakerIds) {
    return Invalid("dry_sequence_breakers are ", ids, " ids long in this vocabulary, more than ",
                   kMaxDryBreakerIds);
  }
  // The sampler searches by halves.
  if (!std::is_sorted(dry.breaker_ids.begin(), dry.breaker_ids.end()) ||
      !std::is_sorted(dry.breaker_sequences.begin(), dry.breaker_sequences.end())) {
    return Invalid("dry_sequence_breakers are not in ascending order");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateSampling(const SamplingParams& p) {
  if (!(p.temperature >= 0 && std::isfinite(p.temperature)))
    return OutOfRange("temperature", p.temperature, "[0, inf)");
  if (!(p.top_p > 0 && p.top_p <= 1)) return OutOfRange("top_p", p.top_p, "(0, 1]");
  if (p.top_k < 0) return OutOfRange("top_k", p.top_k, "[0, inf)");
  if (!(p.repetition_penalty > 0 && p.repetition_penalty <= 10)) {
    return OutOfRange("repetition_penalty", p.repetition_penalty, "(0, 10]");
  }
  for (const absl::Status& status :
       {CheckRange("min_p", p.min_p, 0, 1), CheckRange("presence_penalty", p.presence_penalty, -2, 2),
        CheckRange("frequency_penalty", p.frequency_penalty, -2, 2),
        CheckAtLeast("repeat_last_n", p.repeat_last_n.value_or(-1), -1),
        CheckAtLeast("min_tokens", p.min_tokens, 0),
        CheckRange("top_logprobs", p.top_logprobs, 0, kMaxTopLogprobs), CheckBiases(p.logit_bias),
        CheckDry(p.dry)}) {
    if (!status.ok()) return status;
  }
  if (p.top_logprobs > 0 && !p.logprobs) {
    return Invalid("top_logprobs is ", p.top_logprobs, ", which needs logprobs");
  }
  return absl::OkStatus();
}

absl::Status ValidateSamplingIds(const SamplingParams& p, int32_t vocab_size) {
  const auto outside = [vocab_size](int32_t id) { return id < 0 || id >= vocab_size; };
  for (const LogitBias& b : p.logit_bias) {
    if (outside(b.id))
      return Invalid("logit_bias[", b.id, "] is for an id that is not in [0, ", vocab_size, ")");
  }
  const auto check = [&](const std::vector<int32_t>& ids) {
    const auto bad = std::find_if(ids.begin(), ids.end(), outside);
    if (bad == ids.end()) return absl::OkStatus();
    return Invalid("dry_sequence_breakers have id ", *bad, ", not in [0, ", vocab_size, ")");
  };
  if (absl::Status status = check(p.dry.breaker_ids); !status.ok()) return status;
  for (const std::vector<int32_t>& sequence : p.dry.breaker_sequences) {
    if (absl::Status status = check(sequence); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace moepool
