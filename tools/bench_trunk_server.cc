// A router's own stream of ids, which is what a gateway has of it.
#include <algorithm>
#include <utility>

#include "absl/synchronization/notification.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/rpc/trunk_client.h"
#include "tools/bench_server.h"
#include "tools/bench_statistics.h"

namespace moepool {
namespace {

class TrunkServer final : public BenchServer {
 public:
  explicit TrunkServer(const std::string& address) : trunk_(address) {}

  absl::Status Prepare(int vocab) {
    vocab_ = vocab;
    if (vocab > 0) return absl::OkStatus();
    MOEPOOL_ASSIGN_OR_RETURN(const ModelInfo info, trunk_.Describe());
    vocab_ = info.vocab_size;
    return absl::OkStatus();
  }

  absl::StatusOr<BenchPrompt> MakePrompt(int tokens, std::mt19937_64* random) override {
    return BenchPrompt{{}, RandomIds(tokens, std::max(vocab_, 1), random)};
  }

  absl::StatusOr<Generated> Generate(const BenchPrompt& prompt, int tokens, absl::Time deadline) override {
    SequenceRequest request;
    request.request_id = "bench";
    request.prompt = prompt.ids;
    request.max_tokens = tokens;
    request.deadline = deadline;
    Generated generated;
    absl::Status status;
    absl::Notification finished;
    // Updates come one after another, and none after the last: what they write is read after it alone.
    MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<TrunkCall> call,
                             trunk_.Generate(std::move(request), [&](SequenceUpdate update) {
                               if (!update.ids.empty()) {
                                 generated.events_s.push_back(SteadySeconds());
                                 generated.tokens += static_cast<int>(update.ids.size());
                               }
                               generated.cached_tokens =
                                   std::max(generated.cached_tokens, update.cached_tokens);
                               if (!update.finished) return;
                               status = update.status;
                               finished.Notify();
                             }));
    finished.WaitForNotification();
    MOEPOOL_RETURN_IF_ERROR(status);
    generated.prompt_tokens = static_cast<int>(prompt.ids.size());
    return generated;
  }

 private:
  GrpcTrunk trunk_;
  int vocab_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BenchServer>> MakeTrunkBenchServer(const HostPort& address, int vocab) {
  auto server = std::make_unique<TrunkServer>(address.ToString());
  MOEPOOL_RETURN_IF_ERROR(server->Prepare(vocab));
  return server;
}

}  // namespace moepool
