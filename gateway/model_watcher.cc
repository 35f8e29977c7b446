#include "gateway/model_watcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"

namespace moepool {

ModelWatcher::ModelWatcher(Trunk* trunk, ModelFactory factory, const ModelWatcherOptions& options,
                           std::function<void(bool ready)> on_ready)
    : trunk_(trunk), factory_(std::move(factory)), options_(options), on_ready_(std::move(on_ready)) {
  thread_ = std::thread([this] { Run(); });
}

ModelWatcher::~ModelWatcher() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  thread_.join();
}

std::shared_ptr<const ServedModel> ModelWatcher::Model() {
  MutexLock lock(&mutex_);
  return model_;
}

std::string ModelWatcher::NotReadyReason() {
  MutexLock lock(&mutex_);
  return reason_;
}

absl::StatusOr<std::shared_ptr<const PoolSight>> ModelWatcher::Pool() {
  MutexLock lock(&mutex_);
  return sight_;
}

void ModelWatcher::Refresh() {
  MutexLock lock(&mutex_);
  refresh_ = true;
  wake_.NotifyAll();
}

void ModelWatcher::Run() {
  bool ready = false;
  std::string logged;
  while (true) {
    const std::string reason = Look();
    {
      // Before anyone is told, who may then ask for it.
      MutexLock lock(&mutex_);
      reason_ = reason;
    }
    if (reason.empty() != ready) {
      ready = reason.empty();
      on_ready_(ready);
    }
    if (reason != logged) {
      Log(ready ? LogLevel::kInfo : LogLevel::kWarning, ready ? "ready" : "not ready", {{"reason", reason}});
      logged = reason;
    }
    MutexLock lock(&mutex_);
    const absl::Time until =
        absl::Now() +
        (ready ? options_.poll_interval : std::min(options_.poll_interval, options_.not_ready_interval));
    while (!stopping_ && !refresh_ && absl::Now() < until) {
      wake_.WaitFor(&mutex_, absl::ToChronoNanoseconds(until - absl::Now()));
    }
    if (stopping_) return;
    if (std::exchange(refresh_, false)) described_ = false;
  }
}

std::string ModelWatcher::Look() {
  const absl::Time asked = absl::Now();
  absl::StatusOr<PoolInfo> answer = trunk_->Pool();
  if (!answer.ok()) {
    described_ = false;
    MutexLock lock(&mutex_);
    sight_ = answer.status();
    return std::string(answer.status().message());
  }
  const auto sight = std::make_shared<const PoolSight>(PoolSight{asked, *std::move(answer)});
  const PoolInfo* const pool = &sight->pool;
  {
    MutexLock lock(&mutex_);
    sight_ = sight;
  }
  if (pool->epoch < epoch_) described_ = false;  // another life of the router
  epoch_ = pool->epoch;
  if (!described_) {
    if (const absl::Status status = Describe(); !status.ok()) return std::string(status.message());
    described_ = true;
  }
  if (!pool->ready) return pool->waiting_for.empty() ? "the pool is not ready" : pool->waiting_for;
  return "";
}

absl::Status ModelWatcher::Describe() {
  MOEPOOL_ASSIGN_OR_RETURN(ModelInfo info, trunk_->Describe());
  if (const auto model = Model(); model != nullptr && model->info.digest == info.digest &&
                                  model->info.context_tokens == info.context_tokens &&
                                  router_name_ == info.name) {
    return absl::OkStatus();
  }
  const absl::string_view digest_bytes(reinterpret_cast<const char*>(info.digest.data()), info.digest.size());
  const std::string digest = absl::BytesToHexString(digest_bytes);
  std::string router_name = info.name;
  MOEPOOL_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, factory_(std::move(info)));
  Log(LogLevel::kInfo, "model",
      {{"model", model->info.name}, {"digest", digest}, {"context_tokens", model->info.context_tokens}});
  router_name_ = std::move(router_name);
  MutexLock lock(&mutex_);
  model_ = std::move(model);
  return absl::OkStatus();
}

}  // namespace moepool
