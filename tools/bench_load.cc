// See bench_load.h.
#include "tools/bench_load.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "common/base/str.h"
#include "tools/bench_sequences.h"

namespace moepool {
namespace {

using nlohmann::json;

RequestOutcome SendOne(const SendRequest& send, size_t i, double begin_s) {
  RequestOutcome outcome;
  outcome.begin_s = begin_s;
  outcome.generated = send(i);
  outcome.end_s = SteadySeconds();
  return outcome;
}

}  // namespace

std::vector<RequestOutcome> RunLoad(const Load& load, const SendRequest& send) {
  std::vector<RequestOutcome> outcomes(load.requests);
  std::vector<std::thread> threads;
  std::atomic<size_t> next = 0;  // of the closed loop
  if (load.rate_per_s.has_value()) {
    const double start_s = SteadySeconds();
    const std::vector<double> due = PoissonArrivals(*load.rate_per_s, load.requests, load.seed);
    for (size_t i = 0; i < due.size(); ++i) {
      const double due_s = start_s + due[i];
      std::this_thread::sleep_for(std::chrono::duration<double>(due_s - SteadySeconds()));
      threads.emplace_back([&outcomes, &send, i, due_s] { outcomes[i] = SendOne(send, i, due_s); });
    }
  } else {
    for (int client = 0; client < load.clients; ++client) {
      threads.emplace_back([&] {
        for (size_t i = next++; i < load.requests; i = next++)
          outcomes[i] = SendOne(send, i, SteadySeconds());
      });
    }
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

LoadReport Evaluate(const std::vector<RequestOutcome>& outcomes, int output_tokens,
                    const Objective& objective) {
  LoadReport report;
  std::vector<RequestTimes> requests;
  std::vector<double> ttft_ms, tpot_ms, itl_ms, e2e_ms;
  std::vector<Timeline> timelines;
  double begin_s = 0;
  double end_s = 0;
  for (const RequestOutcome& outcome : outcomes) {
    begin_s = &outcome == &outcomes.front() ? outcome.begin_s : std::min(begin_s, outcome.begin_s);
    end_s = std::max(end_s, outcome.end_s);
    if (!outcome.generated.ok()) {
      const std::string_view message = ToStd(outcome.generated.status().message());
      report.errors[std::string(message.substr(0, message.find('\n')))] += 1;
      continue;
    }
    const Generated& generated = *outcome.generated;
    if (generated.tokens != output_tokens || generated.events_s.empty()) {
      report.errors[StrCat(generated.tokens, " of ", output_tokens, " tokens in ", generated.events_s.size(),
                           " events")] += 1;
      continue;
    }
    const double first_s = generated.events_s.front();
    const double last_s = generated.events_s.back();
    RequestTimes times;
    times.ttft_ms = (first_s - outcome.begin_s) * 1e3;
    times.e2e_ms = (outcome.end_s - outcome.begin_s) * 1e3;
    if (output_tokens > 1) times.tpot_ms = (last_s - first_s) * 1e3 / (output_tokens - 1);
    for (size_t i = 1; i < generated.events_s.size(); ++i) {
      itl_ms.push_back((generated.events_s[i] - generated.events_s[i - 1]) * 1e3);
    }
    ttft_ms.push_back(times.ttft_ms);
    e2e_ms.push_back(times.e2e_ms);
    if (times.tpot_ms.has_value()) tpot_ms.push_back(*times.tpot_ms);
    requests.push_back(times);
    report.output_tokens += generated.tokens;
    timelines.push_back({outcome.begin_s, generated.events_s});
  }
  report.completed = requests.size();
  report.duration_s = end_s - begin_s;
  report.ttft_ms = Describe(std::move(ttft_ms));
  report.tpot_ms = Describe(std::move(tpot_ms));
  report.itl_ms = Describe(std::move(itl_ms));
  report.e2e_ms = Describe(std::move(e2e_ms));
  report.met = CountMet(requests, objective);
  if (report.errors.empty() && report.completed > 0) {
    size_t events = 0;
    for (const Timeline& timeline : timelines) events += timeline.ids_s.size();
    const absl::StatusOr<double> events_per_s = TogetherTokensPerSecond(timelines);
    if (events_per_s.ok()) {
      report.together_tokens_per_s =
          *events_per_s * static_cast<double>(report.output_tokens) / static_cast<double>(events);
    }
  }
  return report;
}

json ToJson(const LoadReport& report, const Objective& objective) {
  size_t failed = 0;
  for (const auto& [message, count] : report.errors) failed += count;
  const auto rate = [&](auto count) {
    return report.duration_s > 0 ? static_cast<double>(count) / report.duration_s : 0.0;
  };
  const auto or_null = [](const std::optional<double>& x) { return x.has_value() ? json(*x) : json(); };
  json slo;
  if (objective.ttft_ms.has_value() || objective.tpot_ms.has_value()) {
    slo = {{"ttft_ms", or_null(objective.ttft_ms)},
           {"tpot_ms", or_null(objective.tpot_ms)},
           {"met", report.met},
           {"goodput_per_s", rate(report.met)}};
  }
  return {{"completed", report.completed},
          {"failed", failed},
          {"errors", report.errors.empty() ? json::object() : json(report.errors)},
          {"duration_s", report.duration_s},
          {"output_tokens", report.output_tokens},
          {"output_tokens_per_s", rate(report.output_tokens)},
          {"requests_per_s", rate(report.completed)},
          {"together_tokens_per_s", or_null(report.together_tokens_per_s)},
          {"ttft_ms", ToJson(report.ttft_ms)},
          {"tpot_ms", ToJson(report.tpot_ms)},
          {"itl_ms", ToJson(report.itl_ms)},
          {"e2e_ms", ToJson(report.e2e_ms)},
          {"slo", std::move(slo)}};
}

}  // namespace moepool
