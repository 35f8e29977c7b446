// A server as `moepool bench serve` sees it: prompts of a length, and answers as they come. Ours over HTTP
// and gRPC, and others, so that all are measured by the same client.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/config.h"
#include "tools/bench_load.h"

namespace moepool {

// As the server's protocol takes it: one of the two, or both where it takes text and says what ids that is.
struct BenchPrompt {
  std::string text;
  std::vector<int32_t> ids;
};

// Thread-safe once made.
class BenchServer {
 public:
  virtual ~BenchServer() = default;
  // Random, of exactly `tokens` tokens. FailedPrecondition where none could be found.
  virtual absl::StatusOr<BenchPrompt> MakePrompt(int tokens, std::mt19937_64* random) = 0;
  // Greedy, past any end, until `tokens` are made; blocks until then.
  virtual absl::StatusOr<Generated> Generate(const BenchPrompt& prompt, int tokens, absl::Time deadline) = 0;
};

// `protocol`: "moepool" (POST /infer of a gateway), "llama" (POST /completion of llama.cpp's server) or
// "openai" (POST /v1/completions). `vocab`: prompts are ids under it; 0: what the server says that it has.
absl::StatusOr<std::unique_ptr<BenchServer>> MakeHttpBenchServer(const std::string& protocol,
                                                                 const HostPort& address, int vocab,
                                                                 absl::Time deadline);
// moepool.v1.Inference of a gateway.
absl::StatusOr<std::unique_ptr<BenchServer>> MakeGrpcBenchServer(const HostPort& address, int vocab,
                                                                 absl::Time deadline);

// moepool.trunk.v1.Trunk of a router: what a gateway calls.
absl::StatusOr<std::unique_ptr<BenchServer>> MakeTrunkBenchServer(const HostPort& address, int vocab);

std::vector<int32_t> RandomIds(int count, int vocab, std::mt19937_64* random);

}  // namespace moepool
