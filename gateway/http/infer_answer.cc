#include "gateway/http/infer_answer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/http/openai_error.h"

namespace moepool {
namespace {

using nlohmann::json;

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

std::string Data(const json& value) { return absl::StrCat("data: ", Dump(value), "\n\n"); }

const char* Name(FinishReason reason) {
  if (reason == FinishReason::kToolCalls) return "tool_calls";
  return reason == FinishReason::kStop ? "stop" : "length";
}

json ToJson(const LogprobEntry& entry) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(entry.bytes.data());
  return {{"id", entry.id},
          {"text", entry.bytes},  // U+FFFD where it is no whole character
          {"bytes", std::vector<int>(bytes, bytes + entry.bytes.size())},
          {"logprob", entry.logprob}};
}

json ToJson(const std::vector<TokenLogprobEntries>& logprobs) {
  json list = json::array();
  for (const TokenLogprobEntries& entries : logprobs) {
    json token = ToJson(entries.token);
    token["top"] = json::array();
    for (const LogprobEntry& top : entries.top) token["top"].push_back(ToJson(top));
    list.push_back(std::move(token));
  }
  return list;
}

// What the last event says of the request.
json Summary(const InferEvent& event) {
  return {{"id", event.id},
          {"model", event.model},
          {"usage",
           {{"prompt_tokens", event.usage.prompt_tokens},
            {"cached_tokens", event.usage.cached_tokens},
            {"completion_tokens", event.usage.completion_tokens}}},
          {"timings",
           {{"queue_ms", event.timings.queue_ms},
            {"ttft_ms", event.timings.ttft_ms},
            {"decode_ms", event.timings.decode_ms}}}};
}

class JsonAnswer : public InferAnswer {
 public:
  JsonAnswer(std::shared_ptr<HttpResponder> responder, const InferAnswerOptions& options)
      : responder_(std::move(responder)),
        options_(options),
        choices_(static_cast<size_t>(std::max(options.n, 1))) {}

  void OnEvent(InferEvent event) override {
    Choice& choice = choices_[static_cast<size_t>(event.index)];
    choice.text += event.text;
    if (options_.logprobs) {
      for (const json& token : ToJson(event.logprobs)) {
        absl::StrAppend(&choice.logprobs, choice.logprobs.empty() ? "" : ",", Dump(token));
      }
    }
    if (event.ended) {
      choice.reason = event.reason;
      choice.seed = event.seed;
    }
    if (!event.finished) return;
    if (!event.status.ok()) return responder_->Send(ErrorResponse(event.status));
    HttpResponse response;
    if (choices_.size() == 1) {
      response.body = Written(Summary(event), choices_[0]);
    } else {
      std::string choices;
      for (size_t i = 0; i < choices_.size(); ++i) {
        absl::StrAppend(&choices, i == 0 ? "" : ",", Written(json{{"index", i}}, choices_[i]));
      }
      response.body = WithList(Summary(event), "choices", choices);
    }
    responder_->Send(std::move(response));
  }

 private:
  struct Choice {
    std::string text;
    std::string logprobs;  // elements, written out: a tree of them would take ten times the memory
    FinishReason reason = FinishReason::kNone;
    uint64_t seed = 0;
  };
  // `object`, which is not empty, with a list of written elements.
  static std::string WithList(const json& object, std::string_view name, const std::string& elements) {
    std::string text = Dump(object);
    text.pop_back();
    absl::StrAppend(&text, ",\"", std::string(name), "\":[", elements, "]}");
    return text;
  }
  std::string Written(json object, const Choice& choice) const {
    object["text"] = choice.text;
    object["finish_reason"] = Name(choice.reason);
    object["seed"] = choice.seed;
    return options_.logprobs ? WithList(object, "logprobs", choice.logprobs) : Dump(object);
  }

  const std::shared_ptr<HttpResponder> responder_;
  const InferAnswerOptions options_;
  std::vector<Choice> choices_;
};

class StreamAnswer : public InferAnswer, public std::enable_shared_from_this<StreamAnswer> {
 public:
  StreamAnswer(std::shared_ptr<HttpResponder> responder, const InferAnswerOptions& options,
               boost::asio::thread_pool* pool, absl::Duration keepalive_interval)
      : responder_(std::move(responder)),
        several_(options.n > 1),
        timer_(*pool),
        interval_(absl::ToChronoNanoseconds(keepalive_interval)) {}

  void OnEvent(InferEvent event) override {
    MutexLock lock(&mutex_);
    if (!event.text.empty() || !event.logprobs.empty()) {
      json data = Begin(event, std::move(event.text));
      if (!event.logprobs.empty()) data["logprobs"] = ToJson(event.logprobs);
      Write(Data(data));
    }
    if (several_ && event.ended) {
      json end = Begin(event, "");
      AddEnd(event, &end);
      Write(Data(end));
    }
    if (!event.finished) return;
    over_ = true;
    timer_.cancel();
    if (!event.status.ok()) {
      if (!started_) return responder_->Send(ErrorResponse(event.status));
      Write(Data(OpenAiError(event.status)));
    } else {
      json last = Summary(event);
      if (!several_) {
        last["text"] = "";
        AddEnd(event, &last);
      }
      Write(absl::StrCat(Data(last), "data: [DONE]\n\n"));
    }
    responder_->EndStream();
  }

  void ArmKeepalive() {
    MutexLock lock(&mutex_);
    WaitKeepalive();
  }

 private:
  json Begin(const InferEvent& event, std::string text) const {
    json data = {{"text", std::move(text)}};
    if (several_) data["index"] = event.index;
    return data;
  }
  static void AddEnd(const InferEvent& event, json* data) {
    (*data)["finish_reason"] = Name(event.reason);
    (*data)["seed"] = event.seed;
  }

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
  const bool several_;
  Mutex mutex_;
  boost::asio::steady_timer timer_ GUARDED_BY(mutex_);
  const std::chrono::nanoseconds interval_;
  bool started_ GUARDED_BY(mutex_) = false;
  bool wrote_ GUARDED_BY(mutex_) = false;  // since the last look
  bool over_ GUARDED_BY(mutex_) = false;
};

}  // namespace

std::shared_ptr<InferAnswer> MakeJsonAnswer(std::shared_ptr<HttpResponder> responder,
                                            const InferAnswerOptions& options) {
  return std::make_shared<JsonAnswer>(std::move(responder), options);
}

std::shared_ptr<InferAnswer> MakeStreamAnswer(std::shared_ptr<HttpResponder> responder,
                                              const InferAnswerOptions& options,
                                              boost::asio::thread_pool* pool,
                                              absl::Duration keepalive_interval) {
  auto answer = std::make_shared<StreamAnswer>(std::move(responder), options, pool, keepalive_interval);
  answer->ArmKeepalive();
  return answer;
}

}  // namespace moepool
