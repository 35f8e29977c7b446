// An engine over a tiny synthetic model with local workers, and a pool that a test can break.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/model/synthetic.h"
#include "router/engine.h"
#include "router/local_pool.h"

namespace moepool {

// Collects the updates of one call.
class Collector {
 public:
  UpdateCallback Callback() {
    return [this](SequenceUpdate update) {
      MutexLock lock(&mutex_);
      ids_.insert(ids_.end(), update.ids.begin(), update.ids.end());
      for (LogitsRow& row : update.logits) logits_.push_back(std::move(row));
      if (ids_.size() >= act_at_ && act_) {
        act_();
        act_ = nullptr;
      }
      if (update.finished) {
        last_ = std::move(update);
        finished_ = true;
      }
      changed_.NotifyAll();
    };
  }
  // Calls `act` on the engine's thread with the id that is the count-th: nothing can run ahead of it.
  void At(size_t count, std::function<void()> act) {
    MutexLock lock(&mutex_);
    act_at_ = count;
    act_ = std::move(act);
  }
  SequenceUpdate WaitFinished() {
    MutexLock lock(&mutex_);
    while (!finished_) changed_.Wait(&mutex_);
    return last_;
  }
  void WaitIds(size_t count) {
    MutexLock lock(&mutex_);
    while (ids_.size() < count && !finished_) changed_.Wait(&mutex_);
  }
  std::vector<int32_t> ids() {
    MutexLock lock(&mutex_);
    return ids_;
  }
  std::vector<LogitsRow> logits() {
    MutexLock lock(&mutex_);
    return logits_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<int32_t> ids_ GUARDED_BY(mutex_);
  std::vector<LogitsRow> logits_ GUARDED_BY(mutex_);
  size_t act_at_ GUARDED_BY(mutex_) = 0;
  std::function<void()> act_ GUARDED_BY(mutex_);
  SequenceUpdate last_ GUARDED_BY(mutex_);
  bool finished_ GUARDED_BY(mutex_) = false;
};

inline SynthSpec MixtralSpec() {
  SynthSpec spec;
  spec.experts = 6;
  spec.experts_per_token = 2;
  spec.ffn = 64;
  spec.vocab = 300;
  spec.context = 256;
  return spec;
}

// A pool that can lose its routes, and whose transports can be broken, between two steps.
class FragilePool : public ExpertPool {
 public:
  explicit FragilePool(ExpertPool* inner) : inner_(inner) {}
  std::shared_ptr<const RoutingTable> Routes() override {
    MutexLock lock(&mutex_);
    return broken_ ? nullptr : inner_->Routes();
  }
  std::string WaitingFor() override { return "expert 3 of layer 1 has no holder"; }
  void ReportLoss(WorkerId, const absl::Status&) override { Break(); }
  void ReportExchanges(std::span<const ExchangeReport>) override {}
  std::vector<PoolWorkerInfo> Workers() override { return {}; }
  void Break() {
    MutexLock lock(&mutex_);
    broken_ = true;
  }
  void Mend() {
    MutexLock lock(&mutex_);
    broken_ = false;
  }

 private:
  ExpertPool* const inner_;
  Mutex mutex_;
  bool broken_ GUARDED_BY(mutex_) = false;
};

class EngineTest : public ::testing::Test {
 protected:
  void Start(const SynthSpec& spec, EngineOptions options = {}, int workers = 2) {
    auto source = MakeSyntheticSource(spec);
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = std::move(*source);
    BackendOptions backend_options;
    backend_options.threads = 1;
    auto backend = MakeBackend(backend_options);
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = std::move(*backend);
    auto pool = LocalPool::Create(source_, backend_.get(), workers);
    ASSERT_TRUE(pool.ok()) << pool.status();
    local_ = std::move(*pool);
    pool_ = std::make_unique<FragilePool>(local_.get());
    if (options.kv_bytes == EngineOptions().kv_bytes) options.kv_bytes = 4 << 20;
    auto engine = Engine::Create(backend_.get(), source_, pool_.get(), options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(*engine);
  }

  static SequenceRequest Request(int prompt, int max_tokens) {
    SequenceRequest request;
    request.request_id = "r";
    for (int i = 0; i < prompt; ++i) request.prompt.push_back((i * 37 + 11) % 256);
    request.max_tokens = max_tokens;
    return request;
  }

  std::vector<int32_t> Run(const SequenceRequest& request, SequenceUpdate* last = nullptr) {
    Collector collector;
    auto call = engine_->Generate(request, collector.Callback());
    EXPECT_TRUE(call.ok()) << call.status();
    const SequenceUpdate update = collector.WaitFinished();
    if (last != nullptr) *last = update;
    return collector.ids();
  }

  std::shared_ptr<const ModelSource> source_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<LocalPool> local_;
  std::unique_ptr<FragilePool> pool_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace moepool
