#include "gateway/inference.h"

#include <algorithm>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "boost/asio/post.hpp"
#include "boost/asio/strand.hpp"
#include "common/base/log.h"
#include "gateway/token_stream.h"

namespace moepool {
namespace {

uint64_t Random64() {
  static thread_local std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

// Seeds that are drawn stay under 2^53, so that every JSON reader gives them back unchanged.
uint64_t DrawSeed() { return Random64() >> 11; }

double Milliseconds(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

}  // namespace

// All but Cancel and id runs on the strand.
class InferCallImpl : public InferCall, public std::enable_shared_from_this<InferCallImpl> {
 public:
  InferCallImpl(Inference* inference, InferRequest request, InferCallback on_event)
      : inference_(inference),
        metrics_(*inference->metrics_),
        request_(std::move(request)),
        on_event_(std::move(on_event)),
        id_(absl::StrFormat("infer-%016x%08x", Random64(), Random64() >> 32)),
        strand_(boost::asio::make_strand(inference->pool_)),
        arrived_(absl::Now()) {
    last_.id = id_;
    last_.seed = request_.seed.has_value() ? *request_.seed : DrawSeed();
    metrics_.requests_waiting.Increment();
  }

  void Cancel() override {
    boost::asio::post(strand_,
                      [self = shared_from_this()] { self->Finish(absl::CancelledError("cancelled")); });
  }
  const std::string& id() const override { return id_; }

  void Start() {
    absl::StatusOr<std::unique_ptr<Admission::Ticket>> ticket = inference_->admission_.Admit();
    if (ticket.ok()) ticket_ = *std::move(ticket);
    boost::asio::post(strand_, [self = shared_from_this(), admitted = ticket.status()] {
      if (self->over_) return;
      if (const absl::Status status = admitted.ok() ? self->Submit() : admitted; !status.ok())
        self->Finish(status);
    });
  }

 private:
  absl::Status Submit() {
    if (absl::Status status = ValidateInferRequest(request_); !status.ok()) return status;
    absl::StatusOr<std::shared_ptr<const ServedModel>> model = inference_->Model();
    if (!model.ok()) return model.status();
    model_ = *std::move(model);
    last_.model = model_->info.name;
    absl::StatusOr<std::vector<int32_t>> prompt = EncodePrompt(*model_, request_, absl::Now());
    if (!prompt.ok()) return prompt.status();
    text_.emplace(model_->tokenizer.get(), request_.stop);
    last_.usage.prompt_tokens = static_cast<int32_t>(prompt->size());

    SequenceRequest sequence;
    sequence.request_id = id_;
    sequence.max_tokens =
        std::min(request_.max_tokens, model_->info.context_tokens - last_.usage.prompt_tokens);
    sequence.prompt = *std::move(prompt);
    sequence.sampling = request_.sampling;
    sequence.sampling.seed = last_.seed;
    sequence.stop_ids = model_->stop_ids;
    sequence.deadline = std::min(request_.deadline, arrived_ + inference_->options_.request_timeout);
    absl::StatusOr<std::unique_ptr<TrunkCall>> call =
        inference_->trunk_->Generate(std::move(sequence), [self = shared_from_this()](SequenceUpdate update) {
          // The trunk's thread is not held up: the work is done on the strand.
          boost::asio::post(self->strand_, [self, update = std::move(update)]() mutable {
            self->OnUpdate(std::move(update));
          });
        });
    if (!call.ok()) return call.status();
    trunk_call_ = *std::move(call);
    return absl::OkStatus();
  }

  void OnUpdate(SequenceUpdate update) {
    if (over_) return;
    last_.usage.cached_tokens = std::max(last_.usage.cached_tokens, update.cached_tokens);
    last_.timings.queue_ms = std::max(last_.timings.queue_ms, update.queue_ms);
    InferEvent event;
    if (!text_->stopped() && !update.ids.empty()) {
      TokenStream::Step step = text_->Push(update.ids);
      event.text = std::move(step.text);
      event.ids.assign(update.ids.begin(), update.ids.begin() + step.used);
      CountIds(static_cast<int32_t>(step.used));
    }
    if (text_->stopped()) {
      Emit(std::move(event));
      last_.reason = FinishReason::kStop;
      Finish(absl::OkStatus());
      return;
    }
    if (!update.finished) {
      Emit(std::move(event));
      return;
    }
    if (update.status.ok()) {
      event.text += text_->Finish();
      last_.reason = text_->stopped() ? FinishReason::kStop : update.reason;
    }
    Emit(std::move(event));
    if (update.status.code() == absl::StatusCode::kUnavailable) inference_->watcher_->Refresh();
    Finish(update.status);
  }

  void CountIds(int32_t count) {
    const absl::Time now = absl::Now();
    if (last_.usage.completion_tokens == 0) {
      first_token_ = now;
      metrics_.requests_waiting.Decrement();
      metrics_.requests_running.Increment();
      metrics_.time_to_first_token.Observe(absl::ToDoubleSeconds(now - arrived_));
    } else {
      const double seconds = absl::ToDoubleSeconds(now - last_token_) / count;
      for (int32_t i = 0; i < count; ++i) metrics_.inter_token_latency.Observe(seconds);
    }
    last_token_ = now;
    last_.usage.completion_tokens += count;
    metrics_.generation_tokens.Increment(count);
  }

  void Emit(InferEvent event) {
    if (!event.text.empty() || !event.ids.empty()) on_event_(std::move(event));
  }

  void Finish(absl::Status status) {
    if (std::exchange(over_, true)) return;
    trunk_call_.reset();  // cancels it where it runs
    const bool started = last_.usage.completion_tokens > 0;
    if (started) {
      last_.timings.ttft_ms = Milliseconds(first_token_ - arrived_);
      last_.timings.decode_ms = Milliseconds(last_token_ - first_token_);
    }
    (started ? metrics_.requests_running : metrics_.requests_waiting).Decrement();
    Count(status);
    ticket_.reset();
    Log(LogLevel::kInfo, "request",
        {{"id", id_},
         {"status", absl::StatusCodeToString(status.code())},
         {"prompt_tokens", last_.usage.prompt_tokens},
         {"completion_tokens", last_.usage.completion_tokens},
         {"queue_ms", last_.timings.queue_ms},
         {"ttft_ms", last_.timings.ttft_ms},
         {"total_ms", Milliseconds(absl::Now() - arrived_)}});
    last_.finished = true;
    last_.status = std::move(status);
    on_event_(std::move(last_));
    on_event_ = nullptr;
    inference_->Ended(shared_from_this());
  }

  void Count(const absl::Status& status) {
    switch (status.code()) {
      case absl::StatusCode::kOk:
        (last_.reason == FinishReason::kStop ? metrics_.success_stop : metrics_.success_length).Increment();
        metrics_.prompt_tokens.Increment(last_.usage.prompt_tokens);
        metrics_.cached_tokens.Increment(last_.usage.cached_tokens);
        metrics_.queue_time.Observe(last_.timings.queue_ms / 1e3);
        metrics_.request_latency.Observe(absl::ToDoubleSeconds(absl::Now() - arrived_));
        break;
      case absl::StatusCode::kCancelled:
        metrics_.cancelled.Increment();
        break;
      case absl::StatusCode::kInvalidArgument:
      case absl::StatusCode::kResourceExhausted:
        metrics_.rejected.Increment();
        break;
      default:
        metrics_.failed.Increment();
    }
  }

  Inference* const inference_;
  GatewayMetrics& metrics_;
  const InferRequest request_;
  InferCallback on_event_;
  const std::string id_;
  boost::asio::strand<boost::asio::thread_pool::executor_type> strand_;
  const absl::Time arrived_;
  absl::Time first_token_;
  absl::Time last_token_;
  std::unique_ptr<Admission::Ticket> ticket_;
  std::shared_ptr<const ServedModel> model_;
  std::optional<TokenStream> text_;
  std::unique_ptr<TrunkCall> trunk_call_;
  InferEvent last_;  // what the last event will say, as far as it is known
  bool over_ = false;
};

Inference::Inference(Trunk* trunk, ModelWatcher* watcher, GatewayMetrics* metrics,
                     const InferenceOptions& options)
    : trunk_(trunk),
      watcher_(watcher),
      metrics_(metrics),
      options_(options),
      admission_(options.max_requests),
      pool_(options.threads) {}

Inference::~Inference() { pool_.join(); }

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
  pool_.join();
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
