#include "gateway/inference.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "gateway/infer_call.h"

namespace moepool {
namespace {

size_t PreparationThreads(int asked) {
  return asked > 0 ? static_cast<size_t>(asked) : std::max(2U, std::thread::hardware_concurrency());
}

}  // namespace

Inference::Inference(Trunk* trunk, ModelWatcher* watcher, GatewayMetrics* metrics,
                     const InferenceOptions& options)
    : trunk_(trunk),
      watcher_(watcher),
      metrics_(metrics),
      options_(options),
      admission_({options.max_requests, options.max_queue_requests, options.max_queue_tokens}),
      stream_pool_(static_cast<size_t>(options.stream_threads)),
      preparation_pool_(PreparationThreads(options.preparation_threads)) {}

Inference::~Inference() {
  preparation_pool_.join();
  stream_pool_.join();
}

void Inference::Shutdown() {
  admission_.Drain();
  std::vector<std::shared_ptr<InferCall>> live;
  {
    MutexLock lock(&mutex_);
    live.assign(live_.begin(), live_.end());
  }
  for (const auto& call : live) call->Cancel();
  {
    MutexLock lock(&mutex_);
    while (!live_.empty()) ended_.Wait(&mutex_);
  }
  preparation_pool_.join();
  stream_pool_.join();
}

void Inference::Ended(const std::shared_ptr<InferCall>& call) {
  MutexLock lock(&mutex_);
  live_.erase(call);
  ended_.NotifyAll();
}

std::shared_ptr<InferCall> Inference::Start(InferRequest request, InferCallback on_event) {
  auto call = std::make_shared<InferCallImpl>(this, std::move(request), std::move(on_event));
  {
    MutexLock lock(&mutex_);
    live_.insert(call);
  }
  call->Start();
  return call;
}

absl::StatusOr<std::shared_ptr<const ServedModel>> Inference::Model() {
  std::shared_ptr<const ServedModel> model = watcher_->Model();
  if (model == nullptr) return absl::UnavailableError(watcher_->NotReadyReason());
  return model;
}

absl::StatusOr<std::vector<int32_t>> Inference::Tokenize(const TokenizeTextRequest& request) {
  const absl::StatusOr<std::shared_ptr<const ServedModel>> model = Model();
  if (!model.ok()) return model.status();
  return EncodeText(**model, request.text, request.parse_special);
}

}  // namespace moepool
