// A Trunk without a model: tests, and programs that try a gateway alone, say what it answers.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/trunk/trunk.h"
#include "common/trunk/update_delivery.h"

namespace moepool {

// One call as the test sees it; outlives the TrunkCall that the gateway holds. Thread-safe.
class FakeCall {
 public:
  FakeCall(SequenceRequest request, UpdateCallback on_update)
      : request_(std::move(request)), delivery_(std::move(on_update)) {}
  const SequenceRequest& request() const { return request_; }
  // Delivers an update on the caller's thread; false where the call is over or destroyed.
  bool Send(SequenceUpdate update);
  bool SendIds(std::vector<int32_t> ids);
  bool Finish(FinishReason reason);
  bool Fail(absl::Status status);
  // Returns once the gateway has cancelled the call, or destroyed it before its end.
  void WaitCancelled();
  bool cancelled();

 private:
  friend class FakeTrunk;
  friend class FakeTrunkCall;
  void MarkCancelled();
  void Close();  // no update after this; cancels where there was no last one

  const SequenceRequest request_;
  UpdateDelivery delivery_;
  Mutex mutex_;
  CondVar changed_;
  bool cancelled_ GUARDED_BY(mutex_) = false;
};

class FakeTrunk : public Trunk {
 public:
  // What to answer to a request, at once and in order, from the fake's own thread. The last update is to be
  // finished, unless the call shall stay open.
  using Responder = std::function<std::vector<SequenceUpdate>(const SequenceRequest&)>;

  explicit FakeTrunk(ModelInfo info);
  ~FakeTrunk() override;

  void SetModel(ModelInfo info);
  void SetResponder(Responder responder);  // none (the default): the test answers through FakeCall
  void SetPool(PoolInfo pool);
  void SetLendsThreads(bool lends) { lends_threads_ = lends; }  // true from the start, as over gRPC
  // Not OK: what Describe, Pool and Generate return.
  void SetStatus(absl::Status status);
  // The i-th call since the start, waiting for it.
  std::shared_ptr<FakeCall> WaitCall(size_t i);
  size_t calls();

  absl::StatusOr<ModelInfo> Describe() override;
  absl::StatusOr<PoolInfo> Pool() override;
  absl::StatusOr<std::unique_ptr<TrunkCall>> Generate(SequenceRequest request,
                                                      UpdateCallback on_update) override;
  bool lends_threads() const override { return lends_threads_; }

 private:
  friend class FakeTrunkCall;
  void Post(std::function<void()> task);
  void Run();

  std::atomic<bool> lends_threads_{true};
  Mutex mutex_;
  CondVar changed_;
  ModelInfo info_ GUARDED_BY(mutex_);
  PoolInfo pool_ GUARDED_BY(mutex_);
  absl::Status status_ GUARDED_BY(mutex_);
  Responder responder_ GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<FakeCall>> calls_ GUARDED_BY(mutex_);
  std::deque<std::function<void()>> tasks_ GUARDED_BY(mutex_);
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace moepool
