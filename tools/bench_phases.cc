// See bench_phases.h.
#include "tools/bench_phases.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

void AddExchange(const EngineTotals& before, const EngineTotals& after, PhaseResult* result) {
  result->exchange.Merge(after.exchange.Since(before.exchange));
  result->exchange_own.Merge(after.exchange_own.Since(before.exchange_own));
}

// Runs `specs` at once, warmup and counted times; `figure` makes its numbers of each counted run.
// `prefill`: whether the exchanges before the first ids are of interest.
absl::Status Repeat(SequenceRunner* runner, const std::vector<SequenceSpec>& specs, PhaseRepetitions reps,
                    bool prefill, PhaseResult* result,
                    const std::function<absl::Status(const std::vector<Timeline>&)>& figure) {
  for (int i = 0; i < reps.warmup + reps.counted; ++i) {
    MOEPOOL_ASSIGN_OR_RETURN(PoolInfo before, runner->IdlePool());
    absl::Status looked;
    std::function<void()> look;
    if (!prefill) {
      look = [&] {
        absl::StatusOr<PoolInfo> pool = runner->Pool();
        looked = pool.status();
        if (pool.ok()) before = *std::move(pool);
      };
    }
    MOEPOOL_ASSIGN_OR_RETURN(
        const std::vector<Timeline> timelines,
        runner->Run(specs, static_cast<int>(specs.size()), AdmissionPolicy::kContinuous, look));
    MOEPOOL_RETURN_IF_ERROR(looked);
    MOEPOOL_ASSIGN_OR_RETURN(const PoolInfo after, runner->IdlePool());
    if (i < reps.warmup) continue;
    AddExchange(before.totals, after.totals, result);
    MOEPOOL_RETURN_IF_ERROR(figure(timelines));
  }
  return absl::OkStatus();
}

struct BatchingRun {
  double tokens_per_s = 0;
  double utilisation = 0;
};

absl::StatusOr<BatchingRun> RunBatching(SequenceRunner* runner, const std::vector<SequenceSpec>& specs,
                                        const BatchingSpec& spec, AdmissionPolicy policy, bool counted,
                                        PhaseResult* result) {
  MOEPOOL_ASSIGN_OR_RETURN(const PoolInfo before, runner->IdlePool());
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Timeline> timelines, runner->Run(specs, spec.running, policy));
  MOEPOOL_ASSIGN_OR_RETURN(const PoolInfo after, runner->IdlePool());
  double begin_s = timelines.front().submitted_s;
  double end_s = begin_s;
  size_t ids = 0;
  for (const Timeline& timeline : timelines) {
    ids += timeline.ids_s.size();
    end_s = std::max(end_s, timeline.ids_s.back());
  }
  if (counted) AddExchange(before.totals, after.totals, result);
  const auto steps = static_cast<double>(after.totals.steps - before.totals.steps);
  const auto rows = static_cast<double>(after.totals.decode_rows - before.totals.decode_rows);
  return BatchingRun{static_cast<double>(ids) / (end_s - begin_s), rows / (steps * spec.running)};
}

}  // namespace

absl::StatusOr<PhaseResult> MeasurePrefill(SequenceRunner* runner, int prompt_tokens, PhaseRepetitions reps) {
  PhaseResult result;
  result.phase = "prefill";
  result.shape = {{"prompt_tokens", prompt_tokens}};
  std::vector<double> rates;
  std::vector<double> ttft_ms;
  MOEPOOL_RETURN_IF_ERROR(
      Repeat(runner, {{prompt_tokens, 1}}, reps, true, &result, [&](const std::vector<Timeline>& timelines) {
        const double seconds = timelines[0].ids_s.front() - timelines[0].submitted_s;
        rates.push_back(prompt_tokens / seconds);
        ttft_ms.push_back(seconds * 1e3);
        return absl::OkStatus();
      }));
  result.figures = {{"tokens_per_s", Summarize(rates)}, {"ttft_ms", Summarize(ttft_ms)}};
  return result;
}

absl::StatusOr<PhaseResult> MeasureDecode(SequenceRunner* runner, SequenceSpec spec, PhaseRepetitions reps) {
  PhaseResult result;
  result.phase = "decode";
  result.shape = {{"prompt_tokens", spec.prompt_tokens}, {"tokens", spec.new_tokens}};
  std::vector<double> rates;
  MOEPOOL_RETURN_IF_ERROR(Repeat(
      runner, {spec}, reps, false, &result, [&](const std::vector<Timeline>& timelines) -> absl::Status {
        MOEPOOL_ASSIGN_OR_RETURN(const double rate, TogetherTokensPerSecond(timelines));
        rates.push_back(rate);
        return absl::OkStatus();
      }));
  result.figures = {{"tokens_per_s", Summarize(rates)}};
  return result;
}

absl::StatusOr<PhaseResult> MeasureStreams(SequenceRunner* runner, int streams, SequenceSpec spec,
                                           PhaseRepetitions reps) {
  PhaseResult result;
  result.phase = "streams";
  result.shape = {{"streams", streams}, {"prompt_tokens", spec.prompt_tokens}, {"tokens", spec.new_tokens}};
  std::vector<double> rates;
  MOEPOOL_RETURN_IF_ERROR(Repeat(runner, std::vector<SequenceSpec>(static_cast<size_t>(streams), spec), reps,
                                 false, &result, [&](const std::vector<Timeline>& timelines) -> absl::Status {
                                   MOEPOOL_ASSIGN_OR_RETURN(const double rate,
                                                            TogetherTokensPerSecond(timelines));
                                   rates.push_back(rate);
                                   return absl::OkStatus();
                                 }));
  result.figures = {{"tokens_per_s", Summarize(rates)}};
  return result;
}

std::vector<int> LogUniformLengths(const BatchingSpec& spec) {
  std::mt19937_64 random(spec.seed);
  std::vector<int> lengths;
  const double low = std::log(spec.min_tokens);
  const double high = std::log(spec.max_tokens + 1.0);
  for (int i = 0; i < spec.requests; ++i) {
    const double u = static_cast<double>(random() >> 11) * 0x1p-53;
    lengths.push_back(
        std::clamp(static_cast<int>(std::exp(low + (high - low) * u)), spec.min_tokens, spec.max_tokens));
  }
  return lengths;
}

absl::StatusOr<PhaseResult> MeasureBatching(SequenceRunner* runner, const BatchingSpec& spec,
                                            PhaseRepetitions reps) {
  PhaseResult result;
  result.phase = "batching";
  std::vector<SequenceSpec> specs;
  int64_t tokens = 0;
  for (const int length : LogUniformLengths(spec)) {
    specs.push_back({spec.prompt_tokens, length});
    tokens += length;
  }
  result.shape = {{"requests", spec.requests},
                  {"running", spec.running},
                  {"min_tokens", spec.min_tokens},
                  {"max_tokens", spec.max_tokens},
                  {"tokens", tokens}};
  std::vector<double> rates[2], utilisations[2], ratios;
  for (int i = 0; i < reps.warmup + reps.counted; ++i) {
    BatchingRun runs[2];
    for (int k = 0; k < 2; ++k) {
      const AdmissionPolicy policy = k == 0 ? AdmissionPolicy::kContinuous : AdmissionPolicy::kStatic;
      MOEPOOL_ASSIGN_OR_RETURN(runs[k], RunBatching(runner, specs, spec, policy, i >= reps.warmup, &result));
    }
    if (i < reps.warmup) continue;
    for (int k = 0; k < 2; ++k) {
      rates[k].push_back(runs[k].tokens_per_s);
      utilisations[k].push_back(runs[k].utilisation);
    }
    ratios.push_back(runs[0].tokens_per_s / runs[1].tokens_per_s);
  }
  result.figures = {{"continuous_tokens_per_s", Summarize(rates[0])},
                    {"static_tokens_per_s", Summarize(rates[1])},
                    {"ratio", Summarize(ratios)},
                    {"continuous_utilisation", Summarize(utilisations[0])},
                    {"static_utilisation", Summarize(utilisations[1])}};
  return result;
}

}  // namespace moepool
