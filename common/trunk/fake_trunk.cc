#include "common/trunk/fake_trunk.h"

#include <utility>

namespace moepool {

bool FakeCall::Send(SequenceUpdate update) { return delivery_.Deliver(std::move(update)); }

bool FakeCall::SendIds(std::vector<int32_t> ids) {
  SequenceUpdate update;
  update.ids = std::move(ids);
  return Send(std::move(update));
}

bool FakeCall::Finish(FinishReason reason) {
  SequenceUpdate update;
  update.finished = true;
  update.reason = reason;
  return Send(std::move(update));
}

bool FakeCall::Fail(absl::Status status) {
  SequenceUpdate update;
  update.finished = true;
  update.status = std::move(status);
  return Send(std::move(update));
}

void FakeCall::WaitCancelled() {
  MutexLock lock(&mutex_);
  while (!cancelled_) changed_.Wait(&mutex_);
}

bool FakeCall::cancelled() {
  MutexLock lock(&mutex_);
  return cancelled_;
}

void FakeCall::MarkCancelled() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  changed_.NotifyAll();
}

void FakeCall::Close() {
  if (delivery_.Close()) MarkCancelled();
}

class FakeTrunkCall : public TrunkCall {
 public:
  FakeTrunkCall(FakeTrunk* trunk, std::shared_ptr<FakeCall> call) : trunk_(trunk), call_(std::move(call)) {}
  ~FakeTrunkCall() override { call_->Close(); }
  void Cancel() override {
    // The Cancelled update comes from the fake's thread: the caller may stand inside an update.
    trunk_->Post([call = call_] { call->Fail(absl::CancelledError("cancelled")); });
    call_->MarkCancelled();
  }

 private:
  FakeTrunk* trunk_;
  std::shared_ptr<FakeCall> call_;
};

FakeTrunk::FakeTrunk(ModelInfo info) : info_(std::move(info)) {
  pool_.model = info_.name;
  pool_.ready = true;
  thread_ = std::thread([this] { Run(); });
}

FakeTrunk::~FakeTrunk() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void FakeTrunk::SetModel(ModelInfo info) {
  MutexLock lock(&mutex_);
  info_ = std::move(info);
}

void FakeTrunk::SetResponder(Responder responder) {
  MutexLock lock(&mutex_);
  responder_ = std::move(responder);
}

void FakeTrunk::SetPool(PoolInfo pool) {
  MutexLock lock(&mutex_);
  pool_ = std::move(pool);
}

void FakeTrunk::SetStatus(absl::Status status) {
  MutexLock lock(&mutex_);
  status_ = std::move(status);
}

std::shared_ptr<FakeCall> FakeTrunk::WaitCall(size_t i) {
  MutexLock lock(&mutex_);
  while (calls_.size() <= i) changed_.Wait(&mutex_);
  return calls_[i];
}

size_t FakeTrunk::calls() {
  MutexLock lock(&mutex_);
  return calls_.size();
}

absl::StatusOr<ModelInfo> FakeTrunk::Describe() {
  MutexLock lock(&mutex_);
  if (!status_.ok()) return status_;
  return info_;
}

absl::StatusOr<PoolInfo> FakeTrunk::Pool() {
  MutexLock lock(&mutex_);
  if (!status_.ok()) return status_;
  return pool_;
}

absl::StatusOr<std::unique_ptr<TrunkCall>> FakeTrunk::Generate(SequenceRequest request,
                                                               UpdateCallback on_update) {
  auto call = std::make_shared<FakeCall>(std::move(request), std::move(on_update));
  MutexLock lock(&mutex_);
  if (!status_.ok()) return status_;
  calls_.push_back(call);
  if (responder_) {
    tasks_.push_back([call, responder = responder_] {
      for (SequenceUpdate& update : responder(call->request())) call->Send(std::move(update));
    });
  }
  changed_.NotifyAll();
  return std::make_unique<FakeTrunkCall>(this, std::move(call));
}

void FakeTrunk::Post(std::function<void()> task) {
  MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
  changed_.NotifyAll();
}

void FakeTrunk::Run() {
  while (true) {
    std::function<void()> task;
    {
      MutexLock lock(&mutex_);
      while (tasks_.empty() && !stopping_) changed_.Wait(&mutex_);
      if (stopping_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace moepool
