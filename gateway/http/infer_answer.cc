#include "gateway/http/infer_answer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/http/openai_error.h"

namespace moepool {
namespace {

using nlohmann::json;

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

std::string Data(const json& value) { return absl::StrCat("data: ", Dump(value), "\n\n"); }

// What the last event of a request says.
json Summary(const InferEvent& event) {
  return {{"id", event.id},
          {"model", event.model},
          {"finish_reason", event.reason == FinishReason::kStop ? "stop" : "length"},
          {"usage",
           {{"prompt_tokens", event.usage.prompt_tokens},
            {"cached_tokens", event.usage.cached_tokens},
            {"completion_tokens", event.usage.completion_tokens}}},
          {"timings",
           {{"queue_ms", event.timings.queue_ms},
            {"ttft_ms", event.timings.ttft_ms},
            {"decode_ms", event.timings.decode_ms}}},
          {"seed", event.seed}};
}

class JsonAnswer : public InferAnswer {
 public:
  explicit JsonAnswer(std::shared_ptr<HttpResponder> responder) : responder_(std::move(responder)) {}

  void OnEvent(InferEvent event) override {
    text_ += event.text;
    if (!event.finished) return;
    if (!event.status.ok()) return responder_->Send(ErrorResponse(event.status));
    json body = Summary(event);
    body["text"] = std::move(text_);
    HttpResponse response;
    response.body = Dump(body);
    responder_->Send(std::move(response));
  }

 private:
  const std::shared_ptr<HttpResponder> responder_;
  std::string text_;
};

class StreamAnswer : public InferAnswer, public std::enable_shared_from_this<StreamAnswer> {
 public:
  StreamAnswer(std::shared_ptr<HttpResponder> responder, boost::asio::thread_pool* pool,
               absl::Duration keepalive_interval)
      : responder_(std::move(responder)),
        timer_(*pool),
        interval_(absl::ToChronoNanoseconds(keepalive_interval)) {}

  void OnEvent(InferEvent event) override {
    MutexLock lock(&mutex_);
    if (!event.text.empty()) Write(Data({{"text", event.text}}));
    if (!event.finished) return;
    over_ = true;
    timer_.cancel();
    if (!event.status.ok()) {
      if (!started_) return responder_->Send(ErrorResponse(event.status));
      Write(Data(OpenAiError(event.status)));
    } else {
      json last = Summary(event);
      last["text"] = "";
      Write(absl::StrCat(Data(last), "data: [DONE]\n\n"));
    }
    responder_->EndStream();
  }

  void ArmKeepalive() {
    MutexLock lock(&mutex_);
    WaitKeepalive();
  }

 private:
  void WaitKeepalive() REQUIRES(mutex_) {
    if (over_) return;
    timer_.expires_after(interval_);
    timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
      const auto self = weak.lock();
      if (error || self == nullptr) return;
      MutexLock lock(&self->mutex_);
      if (self->over_) return;
      if (!std::exchange(self->wrote_, false)) {
        self->Write(": keepalive\n\n");
        self->wrote_ = false;
      }
      self->WaitKeepalive();
    });
  }

  void Write(std::string data) REQUIRES(mutex_) {
    if (!std::exchange(started_, true)) responder_->StartStream("text/event-stream");
    wrote_ = true;
    responder_->Write(std::move(data));
  }

  const std::shared_ptr<HttpResponder> responder_;
  Mutex mutex_;
  boost::asio::steady_timer timer_ GUARDED_BY(mutex_);
  const std::chrono::nanoseconds interval_;
  bool started_ GUARDED_BY(mutex_) = false;
  bool wrote_ GUARDED_BY(mutex_) = false;  // since the last look
  bool over_ GUARDED_BY(mutex_) = false;
};

}  // namespace

std::shared_ptr<InferAnswer> MakeJsonAnswer(std::shared_ptr<HttpResponder> responder) {
  return std::make_shared<JsonAnswer>(std::move(responder));
}

std::shared_ptr<InferAnswer> MakeStreamAnswer(std::shared_ptr<HttpResponder> responder,
                                              boost::asio::thread_pool* pool,
                                              absl::Duration keepalive_interval) {
  auto answer = std::make_shared<StreamAnswer>(std::move(responder), pool, keepalive_interval);
  answer->ArmKeepalive();
  return answer;
}

}  // namespace moepool
