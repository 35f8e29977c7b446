// Load on a server: requests from clients that wait for their answers (closed loop), or at moments that
// nobody waits for (open loop), and the figures of what came back.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tools/bench_statistics.h"

namespace moepool {

// What a server made of one prompt.
struct Generated {
  std::vector<double> events_s;  // when each event with tokens came, by SteadySeconds()
  int tokens = 0;                // in all
  int prompt_tokens = 0;         // as the server counts them; 0 where it does not say
  int cached_tokens = 0;         // of these; as prompt_tokens
};

struct RequestOutcome {
  // In the closed loop when it was sent; in the open loop when it was due, so that a late client does not
  // make a server look fast.
  double begin_s = 0;
  double end_s = 0;
  absl::StatusOr<Generated> generated = Generated{};
};

struct Load {
  size_t requests = 0;
  int clients = 1;                        // of the closed loop
  std::optional<double> rate_per_s = {};  // of the open loop, whose arrivals are a Poisson process
  uint64_t seed = 1;
};
// Sends request i. Called on many threads at once: in the closed loop as many as there are clients, in the
// open loop one for each request on its way.
using SendRequest = std::function<absl::StatusOr<Generated>(size_t i)>;
std::vector<RequestOutcome> RunLoad(const Load& load, const SendRequest& send);

struct LoadReport {
  size_t completed = 0;
  std::map<std::string, size_t> errors;  // what failed, by the first line of its message
  double duration_s = 0;                 // first begin to last end
  int64_t output_tokens = 0;             // of the completed
  std::optional<Distribution> ttft_ms, tpot_ms, itl_ms, e2e_ms;
  // While all of the requests decode, by TogetherTokensPerSecond; none where one failed, or where there is no
  // such time. Events count as equally many tokens, since a text holds back what is no whole character yet.
  std::optional<double> together_tokens_per_s;
  size_t met = 0;  // completed requests that kept to the objective
};
// A request that made other than `output_tokens` tokens has failed.
LoadReport Evaluate(const std::vector<RequestOutcome>& outcomes, int output_tokens,
                    const Objective& objective);
nlohmann::json ToJson(const LoadReport& report, const Objective& objective);

}  // namespace moepool
