#include "router/sampler_penalties.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/math.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

// A stretch of the sequence that ends where the sequence does, or nothing.
struct History {
  std::span<const int32_t> prompt;
  std::span<const int32_t> generated;
  size_t size() const { return prompt.size() + generated.size(); }
};

// The last n ids; -1: all.
History Last(int32_t n, const SampleContext& context) {
  if (n < 0) return {context.prompt, context.generated};
  const size_t of_generated = std::min(static_cast<size_t>(n), context.generated.size());
  const size_t of_prompt = std::min(static_cast<size_t>(n) - of_generated, context.prompt.size());
  return {context.prompt.last(of_prompt), context.generated.last(of_generated)};
}

absl::Status CheckIds(std::span<const int32_t> ids, size_t vocab) {
  for (const int32_t id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= vocab) {
      return absl::InternalError(absl::StrCat("token id ", id, " outside the vocabulary of ", vocab));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckIds(const History& history, size_t vocab) {
  MOEPOOL_RETURN_IF_ERROR(CheckIds(history.prompt, vocab));
  return CheckIds(history.generated, vocab);
}

// What a penalty made of logit `x`. Finite stays finite: a penalty of 1e-300 is the caller's right, and no
// error of the model's.
float Penalised(float x, double after) {
  constexpr double kMax = std::numeric_limits<float>::max();
  return std::isfinite(x) ? static_cast<float>(std::clamp(after, -kMax, kMax)) : x;
}

constexpr float kLeftOut = -std::numeric_limits<float>::infinity();

void KeepAllowed(std::span<const uint64_t> allowed, std::span<float> logits) {
  if (allowed.empty()) return;
  for (size_t begin = 0; begin < logits.size(); begin += 64) {
    const uint64_t bits = begin / 64 < allowed.size() ? allowed[begin / 64] : 0;
    if (bits == ~uint64_t{0}) continue;
    const std::span<float> some = logits.subspan(begin, std::min<size_t>(64, logits.size() - begin));
    for (size_t i = 0; i < some.size(); ++i) {
      if ((bits >> i & 1) == 0) some[i] = kLeftOut;
    }
  }
}

absl::Status AddBiases(const std::vector<LogitBias>& biases, std::span<float> logits) {
  for (const LogitBias& b : biases) {
    MOEPOOL_RETURN_IF_ERROR(CheckIds({&b.id, 1}, logits.size()));
    logits[b.id] = Penalised(logits[b.id], logits[b.id] + b.bias);
  }
  return absl::OkStatus();
}

absl::Status ApplyPenalties(const SamplingParams& params, const SampleContext& context,
                            std::span<float> logits) {
  const double repetition = params.repetition_penalty;
  if (repetition != 1) {
    const History history = Last(params.repeat_last_n.value_or(-1), context);
    MOEPOOL_RETURN_IF_ERROR(CheckIds(history, logits.size()));
    absl::flat_hash_set<int32_t> seen(history.prompt.begin(), history.prompt.end());
    seen.insert(history.generated.begin(), history.generated.end());
    for (const int32_t id : seen) {
      const double x = logits[id];
      logits[id] = Penalised(logits[id], x > 0 ? x / repetition : x * repetition);
    }
  }
  if (params.frequency_penalty != 0 || params.presence_penalty != 0) {
    const History history = params.repeat_last_n.has_value() ? Last(*params.repeat_last_n, context)
                                                             : History{{}, context.generated};
    MOEPOOL_RETURN_IF_ERROR(CheckIds(history, logits.size()));
    absl::flat_hash_map<int32_t, int> times;
    for (const int32_t id : history.prompt) ++times[id];
    for (const int32_t id : history.generated) ++times[id];
    for (const auto& [id, count] : times) {
      logits[id] =
          Penalised(logits[id], logits[id] - params.frequency_penalty * count - params.presence_penalty);
    }
  }
  return absl::OkStatus();
}

// How many ids have come since the last breaker; all where there is none. `newest` goes back in time. Of the
// breakers that begin at the same id the longest counts.
size_t SinceBreaker(const DryParams& dry, std::span<const int32_t> newest) {
  for (size_t i = 0; i < newest.size(); ++i) {
    // Breakers of several ids have come by as a whole where they begin at i and end at or before 0.
    size_t longest = std::binary_search(dry.breaker_ids.begin(), dry.breaker_ids.end(), newest[i]) ? 1 : 0;
    auto low = dry.breaker_sequences.begin();  // ascending: a prefix narrows the range
    auto high = dry.breaker_sequences.end();
    for (size_t depth = 0; depth <= i && low != high; ++depth) {  // all within begin with `depth` of the ids
      const int32_t id = newest[i - depth];
      low = std::partition_point(
          low, high, [&](const std::vector<int32_t>& s) { return s.size() <= depth || s[depth] < id; });
      high = std::partition_point(low, high, [&](const std::vector<int32_t>& s) { return s[depth] == id; });
      if (low != high && low->size() == depth + 1) longest = std::max(longest, depth + 1);
    }
    if (longest > 0) return i + 1 - longest;
  }
  return newest.size();
}

// z[k]: how many ids from `newest[k]` on equal those from newest[0] on (the Z-algorithm; linear, as `right`
// only grows). z[0] is 0.
std::vector<size_t> CommonPrefixes(std::span<const int32_t> newest) {
  std::vector<size_t> z(newest.size(), 0);
  size_t left = 0;
  size_t right = 0;  // newest[left, right) is a prefix
  for (size_t k = 1; k < newest.size(); ++k) {
    if (k < right) z[k] = std::min(right - k, z[k - left]);
    while (k + z[k] < newest.size() && newest[z[k]] == newest[k + z[k]]) ++z[k];
    if (k + z[k] > right) {
      left = k;
      right = k + z[k];
    }
  }
  return z;
}

absl::Status ApplyDry(const DryParams& dry, const SampleContext& context, std::span<float> logits) {
  const History history = Last(dry.penalty_last_n, context);
  const auto allowed = static_cast<size_t>(dry.allowed_length);
  if (history.size() <= allowed) return absl::OkStatus();
  MOEPOOL_RETURN_IF_ERROR(CheckIds(history, logits.size()));
  std::vector<int32_t> newest(history.generated.rbegin(), history.generated.rend());
  newest.insert(newest.end(), history.prompt.rbegin(), history.prompt.rend());
  const size_t limit = SinceBreaker(dry, newest);
  if (limit < allowed) return absl::OkStatus();

  // Where the last L ids stand earlier in the sequence, the id that followed them there would prolong them.
  absl::flat_hash_map<int32_t, size_t> longest;
  const std::vector<size_t> z = CommonPrefixes(newest);
  for (size_t k = 1; k < newest.size(); ++k) {
    const size_t length = std::min(z[k], limit);
    if (length < allowed) continue;
    size_t& known = longest[newest[k - 1]];
    known = std::max(known, length);
  }
  for (const auto& [id, length] : longest) {
    if (std::binary_search(dry.breaker_ids.begin(), dry.breaker_ids.end(), id)) continue;
    // Beyond what a double holds this is infinite, and the logit ends at the lowest.
    const double penalty = dry.multiplier * Pow(dry.base, static_cast<double>(length - allowed));
    logits[id] = Penalised(logits[id], logits[id] - penalty);
  }
  return absl::OkStatus();
}

bool MayStop(const SamplingParams& params, const SampleContext& context) {
  return context.may_stop && static_cast<size_t>(params.min_tokens) <= context.generated.size();
}

}  // namespace

bool AdjustsNothing(const SamplingParams& params, const SampleContext& context) {
  return context.allowed.empty() && (context.stop_ids.empty() || MayStop(params, context)) &&
         params.logit_bias.empty() && params.repetition_penalty == 1 && params.frequency_penalty == 0 &&
         params.presence_penalty == 0 && params.dry.multiplier == 0;
}

absl::Status AdjustLogits(const SamplingParams& params, const SampleContext& context,
                          std::span<float> logits) {
  MOEPOOL_RETURN_IF_ERROR(CheckIds(context.stop_ids, logits.size()));
  const bool may_stop = MayStop(params, context);
  std::vector<float> stops;  // their logits, which the mask says nothing about
  if (may_stop && !context.allowed.empty()) {
    for (const int32_t id : context.stop_ids) stops.push_back(logits[id]);
  }
  KeepAllowed(context.allowed, logits);
  for (size_t i = 0; i < stops.size(); ++i) logits[context.stop_ids[i]] = stops[i];
  if (!may_stop) {
    for (const int32_t id : context.stop_ids) logits[id] = kLeftOut;
  }
  MOEPOOL_RETURN_IF_ERROR(AddBiases(params.logit_bias, logits));
  MOEPOOL_RETURN_IF_ERROR(ApplyPenalties(params, context, logits));
  if (params.dry.multiplier == 0 || params.dry.penalty_last_n == 0) return absl::OkStatus();
  return ApplyDry(params.dry, context, logits);
}

}  // namespace moepool
