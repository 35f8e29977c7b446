// A gateway of ours over gRPC.
#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/rpc/inference_client.h"
#include "tools/bench_server.h"

namespace moepool {
namespace {

class GrpcServer final : public BenchServer {
 public:
  explicit GrpcServer(const std::string& address) : client_(address) {}

  absl::Status Prepare(int vocab, absl::Time deadline) {
    vocab_ = vocab;
    if (vocab > 0) return absl::OkStatus();
    MOEPOOL_ASSIGN_OR_RETURN(const v1::GetModelResponse model, client_.GetModel(deadline));
    vocab_ = model.vocab_size();
    return absl::OkStatus();
  }

  absl::StatusOr<BenchPrompt> MakePrompt(int tokens, std::mt19937_64* random) override {
    return BenchPrompt{{}, RandomIds(tokens, std::max(vocab_, 1), random)};
  }

  absl::StatusOr<Generated> Generate(const BenchPrompt& prompt, int tokens, absl::Time deadline) override {
    v1::GenerateRequest request;
    request.mutable_token_ids()->mutable_ids()->Add(prompt.ids.begin(), prompt.ids.end());
    request.set_max_tokens(tokens);
    request.mutable_sampling()->set_ignore_eos(true);
    Generated generated;
    MOEPOOL_ASSIGN_OR_RETURN(const v1::GenerateResponse last,
                             client_.Generate(request, deadline, [&](const v1::GenerateResponse& message) {
                               if (message.token_ids_size() > 0)
                                 generated.events_s.push_back(SteadySeconds());
                               return true;
                             }));
    generated.tokens = last.usage().completion_tokens();
    generated.prompt_tokens = last.usage().prompt_tokens();
    generated.cached_tokens = last.usage().cached_tokens();
    return generated;
  }

 private:
  const InferenceClient client_;
  int vocab_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BenchServer>> MakeGrpcBenchServer(const HostPort& address, int vocab,
                                                                 absl::Time deadline) {
  auto server = std::make_unique<GrpcServer>(address.ToString());
  MOEPOOL_RETURN_IF_ERROR(server->Prepare(vocab, deadline));
  return server;
}

}  // namespace moepool
