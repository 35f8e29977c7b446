#include "router/trunk_service.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/rpc/rpc_status.h"
#include "common/rpc/stream_reactor.h"
#include "common/rpc/trunk_convert.h"

namespace moepool {
namespace {

constexpr size_t kChunkBytes = 1 << 20;
constexpr int kMaxPromptLogprobs = 4096;  // of an event: below 1 MB with 20 each

// A call of the trunk's behind a stream of events. The update that ends it ends the stream; until then a
// client that leaves only cancels it. Derived classes hold what waits to be written.
template <typename Event>
class SequenceReactor : public StreamReactor<Event> {
 public:
  void Start(Trunk* trunk, SequenceRequest request) {
    this->Open();
    auto self = std::static_pointer_cast<SequenceReactor>(this->shared_from_this());
    auto call = trunk->Generate(std::move(request),
                                [self](SequenceUpdate update) { self->OnUpdate(std::move(update)); });
    MutexLock lock(&mutex_);
    if (!call.ok()) return this->End(call.status());
    call_ = *std::move(call);
    if (cancelled_) call_->Cancel();
  }

 protected:
  using StreamReactor<Event>::mutex_;
  virtual void Add(SequenceUpdate update) REQUIRES(mutex_) = 0;
  // As Take.
  virtual bool TakeEvent() REQUIRES(mutex_) = 0;

  // The trunk's call is over for us; its own last update will follow.
  void Abort(absl::Status status) REQUIRES(mutex_) {
    aborted_ = std::move(status);
    OnLeft();
  }
  bool aborted() const REQUIRES(mutex_) { return !aborted_.ok(); }

 private:
  void OnUpdate(SequenceUpdate update) {
    MutexLock lock(&mutex_);
    const bool finished = update.finished;
    const absl::Status status = update.status;
    if (!aborted()) Add(std::move(update));
    if (finished) return this->End(aborted() ? aborted_ : status);
    this->Flush();
  }

  bool Take() REQUIRES(mutex_) override { return !aborted() && TakeEvent(); }
  void OnLeft() REQUIRES(mutex_) override {
    cancelled_ = true;
    if (call_ != nullptr) call_->Cancel();
  }
  void Release() override {
    std::unique_ptr<TrunkCall> call;
    {
      MutexLock lock(&mutex_);
      call = std::move(call_);
    }
  }

  bool cancelled_ GUARDED_BY(mutex_) = false;
  absl::Status aborted_ GUARDED_BY(mutex_);
  std::unique_ptr<TrunkCall> call_ GUARDED_BY(mutex_);
};

class GenerateReactor : public SequenceReactor<trunk::v1::TrunkEvent> {
 private:
  void Add(SequenceUpdate update) REQUIRES(mutex_) override {
    next_.mutable_ids()->Add(update.ids.begin(), update.ids.end());
    for (const TokenLogprobs& logprobs : update.logprobs) *next_.add_logprobs() = ToProto(logprobs);
    for (const TokenLogprobs& logprobs : update.prompt_logprobs) {
      *next_.add_prompt_logprobs() = ToProto(logprobs);
    }
    next_.set_cached_tokens(std::max(next_.cached_tokens(), update.cached_tokens));
    next_.set_queue_ms(std::max(next_.queue_ms(), update.queue_ms));
    next_.set_prefill_ms(std::max(next_.prefill_ms(), update.prefill_ms));
    if (update.finished) {
      next_.set_finish_reason(ToProto(update.reason));
      next_.set_preemptions(update.preemptions);
      next_.set_retries(update.retries);
      next_.set_slowest_worker(std::move(update.slowest_worker));
    }
    waiting_ = true;
  }
  bool TakeEvent() REQUIRES(mutex_) override {
    if (!waiting_) return false;
    if (next_.prompt_logprobs_size() > kMaxPromptLogprobs) {
      current_.Clear();
      trunk::v1::TokenLogprobs* first[kMaxPromptLogprobs];
      next_.mutable_prompt_logprobs()->ExtractSubrange(0, kMaxPromptLogprobs, first);
      for (trunk::v1::TokenLogprobs* logprobs : first)
        current_.mutable_prompt_logprobs()->AddAllocated(logprobs);
      return true;
    }
    current_ = std::exchange(next_, trunk::v1::TrunkEvent());
    waiting_ = false;
    return true;
  }

  trunk::v1::TrunkEvent next_;
  bool waiting_ = false;
};

class ScoreReactor : public SequenceReactor<trunk::v1::ScoreEvent> {
 public:
  explicit ScoreReactor(uint64_t max_waiting_bytes) : max_waiting_bytes_(max_waiting_bytes) {}

 private:
  void Add(SequenceUpdate update) REQUIRES(mutex_) override {
    for (LogitsRow& row : update.logits) {
      waiting_bytes_ += row.logits.size() * sizeof(float);
      rows_.push_back(std::move(row));
    }
    if (waiting_bytes_ > max_waiting_bytes_) {
      Abort(absl::ResourceExhaustedError(absl::StrCat("the client reads too slowly: ", waiting_bytes_,
                                                      " bytes of logits wait, more than ",
                                                      max_waiting_bytes_)));
    }
  }
  bool TakeEvent() REQUIRES(mutex_) override {
    if (rows_.empty()) return false;
    const LogitsRow row = std::move(rows_.front());
    rows_.pop_front();
    const size_t bytes = row.logits.size() * sizeof(float);
    waiting_bytes_ -= bytes;
    current_.set_position(row.position);
    current_.set_logits(row.logits.data(), bytes);
    return true;
  }

  const uint64_t max_waiting_bytes_;
  uint64_t waiting_bytes_ = 0;
  std::deque<LogitsRow> rows_;
};

// Sends one string in chunks.
class ChunkReactor : public grpc::ServerWriteReactor<trunk::v1::Chunk> {
 public:
  ChunkReactor(const absl::Status& status, std::string bytes) : bytes_(std::move(bytes)) {
    status.ok() ? Next() : Finish(ToGrpc(status));
  }
  void OnWriteDone(bool ok) override {
    ok ? Next() : Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client left"));
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (offset_ == bytes_.size()) return Finish(grpc::Status::OK);
    chunk_.set_data(bytes_.substr(offset_, kChunkBytes));
    offset_ += chunk_.data().size();
    StartWrite(&chunk_);
  }

  const std::string bytes_;
  size_t offset_ = 0;
  trunk::v1::Chunk chunk_;
};

}  // namespace

grpc::ServerWriteReactor<trunk::v1::TrunkEvent>* TrunkService::Generate(
    grpc::CallbackServerContext* context, const trunk::v1::TrunkRequest* request) {
  auto reactor = std::make_shared<GenerateReactor>();
  SequenceRequest sequence = FromProto(*request);
  sequence.deadline = absl::FromChrono(context->deadline());
  reactor->Start(trunk_, std::move(sequence));
  return reactor.get();
}

grpc::ServerWriteReactor<trunk::v1::ScoreEvent>* TrunkService::Score(grpc::CallbackServerContext* context,
                                                                     const trunk::v1::ScoreRequest* request) {
  auto reactor = std::make_shared<ScoreReactor>(options_.max_waiting_logits_bytes);
  SequenceRequest sequence = FromProto(*request);
  // A negative position would ask the trunk to generate.
  sequence.first_logits = std::max(sequence.first_logits, 0);
  sequence.deadline = absl::FromChrono(context->deadline());
  reactor->Start(trunk_, std::move(sequence));
  return reactor.get();
}

grpc::ServerWriteReactor<trunk::v1::Chunk>* TrunkService::GetModel(grpc::CallbackServerContext*,
                                                                   const trunk::v1::GetModelRequest*) {
  const absl::StatusOr<ModelInfo> info = trunk_->Describe();
  std::string bytes;
  if (info.ok()) bytes = ToProto(*info).SerializeAsString();
  return new ChunkReactor(info.status(), std::move(bytes));
}

grpc::ServerUnaryReactor* TrunkService::GetPool(grpc::CallbackServerContext* context,
                                                const trunk::v1::GetPoolRequest*, trunk::v1::Pool* response) {
  const absl::StatusOr<PoolInfo> pool = trunk_->Pool();
  if (pool.ok()) *response = ToProto(*pool);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(pool.status()));
  return reactor;
}

}  // namespace moepool
