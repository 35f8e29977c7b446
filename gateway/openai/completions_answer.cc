#include "gateway/openai/completions_answer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "gateway/http/infer_answer.h"
#include "gateway/http/openai_error.h"
#include "gateway/openai/legacy_logprobs.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

// What the ends of all prompts add up to.
struct Totals {
  Usage usage;
  Timings timings;
  int32_t finished = 0;  // prompts

  void Add(const InferEvent& event) {
    usage.prompt_tokens += event.usage.prompt_tokens;
    usage.cached_tokens += event.usage.cached_tokens;
    usage.completion_tokens += event.usage.completion_tokens;
    timings.queue_ms = std::max(timings.queue_ms, event.timings.queue_ms);
    timings.ttft_ms = std::max(timings.ttft_ms, event.timings.ttft_ms);
    timings.decode_ms = std::max(timings.decode_ms, event.timings.decode_ms);
    ++finished;
  }
};

class JsonAnswer : public CompletionsAnswer {
 public:
  JsonAnswer(std::shared_ptr<HttpResponder> responder, std::shared_ptr<CallGroup> calls,
             const CompletionsAnswerOptions& options)
      : responder_(std::move(responder)),
        calls_(std::move(calls)),
        options_(options),
        choices_(static_cast<size_t>(options.prompts) * static_cast<size_t>(options.n)) {}

  void OnEvent(int32_t prompt, InferEvent event) override {
    MutexLock lock(&mutex_);
    if (over_) return;
    Choice& choice = choices_[static_cast<size_t>(prompt * options_.n + event.index)];
    const size_t before = choice.logprobs.bytes();
    choice.text += event.text;
    choice.logprobs.Add(event.prompt_logprobs);
    choice.logprobs.Add(event.logprobs);
    bytes_ += event.text.size() + choice.logprobs.bytes() - before;
    if (event.ended) {
      choice.reason = event.reason;
      choice.seed = event.seed;
    }
    if (event.finished && !event.status.ok()) return Fail(event.status);
    if (bytes_ > kMaxAnswerBytes) return Fail(AnswerTooLarge());
    if (!event.finished) return;
    totals_.Add(event);
    if (totals_.finished == options_.prompts) Finish();
  }

 private:
  struct Choice {
    std::string text;
    LegacyLogprobs logprobs;
    FinishReason reason = FinishReason::kNone;
    uint64_t seed = 0;
  };

  void Fail(const absl::Status& status) REQUIRES(mutex_) {
    over_ = true;
    responder_->Send(ErrorResponse(status));
    calls_->Cancel();
  }

  void Finish() REQUIRES(mutex_) {
    over_ = true;
    std::string choices;
    for (size_t i = 0; i < choices_.size(); ++i) {
      Choice& choice = choices_[i];
      const ordered_json object = {{"index", i},
                                   {"text", choice.text},
                                   {"finish_reason", FinishReasonName(choice.reason)},
                                   {"seed", choice.seed}};
      absl::StrAppend(
          &choices, i == 0 ? "" : ",",
          WithMember(WriteJson(object), "logprobs", options_.logprobs ? choice.logprobs.Take() : "null"));
    }
    HttpResponse response;
    response.body =
        WithMember(WriteJson(ToJson(options_.identity)), "choices", absl::StrCat("[", choices, "]"));
    response.body = WithMember(std::move(response.body), "usage", WriteJson(ToJson(totals_.usage)));
    response.body = WithMember(std::move(response.body), "timings", WriteJson(ToJson(totals_.timings)));
    responder_->Send(std::move(response));
  }

  const std::shared_ptr<HttpResponder> responder_;
  const std::shared_ptr<CallGroup> calls_;
  const CompletionsAnswerOptions options_;
  Mutex mutex_;
  std::vector<Choice> choices_ GUARDED_BY(mutex_);
  Totals totals_ GUARDED_BY(mutex_);
  size_t bytes_ GUARDED_BY(mutex_) = 0;
  bool over_ GUARDED_BY(mutex_) = false;
};

class StreamAnswer : public CompletionsAnswer {
 public:
  StreamAnswer(std::shared_ptr<SseStream> stream, std::shared_ptr<CallGroup> calls,
               const CompletionsAnswerOptions& options)
      : stream_(std::move(stream)),
        calls_(std::move(calls)),
        options_(options),
        logprobs_(static_cast<size_t>(options.prompts) * static_cast<size_t>(options.n)) {}

  void OnEvent(int32_t prompt, InferEvent event) override {
    MutexLock lock(&mutex_);
    if (over_) return;
    if (event.finished && !event.status.ok()) {
      over_ = true;
      stream_->Fail(event.status);
      return calls_->Cancel();
    }
    const int32_t index = prompt * options_.n + event.index;
    LegacyLogprobs& logprobs = logprobs_[static_cast<size_t>(index)];
    logprobs.Add(event.prompt_logprobs);
    logprobs.Add(event.logprobs);
    if (!event.text.empty() || !logprobs.empty()) {
      Send(index, std::move(event.text), options_.logprobs ? logprobs.Take() : "null", nullptr);
    }
    if (event.ended) Send(index, "", "null", FinishReasonName(event.reason));
    if (!event.finished) return;
    totals_.Add(event);
    if (totals_.finished == options_.prompts) Finish();
  }

 private:
  void Send(int32_t index, std::string text, const std::string& logprobs, const char* reason)
      REQUIRES(mutex_) {
    const ordered_json choice = {
        {"index", index},
        {"text", std::move(text)},
        {"finish_reason", reason == nullptr ? ordered_json() : ordered_json(reason)}};
    const std::string written = WithMember(WriteJson(choice), "logprobs", logprobs);
    std::string chunk =
        WithMember(WriteJson(ToJson(options_.identity)), "choices", absl::StrCat("[", written, "]"));
    if (options_.include_usage) chunk = WithMember(std::move(chunk), "usage", "null");
    stream_->Send(chunk);
  }

  void Finish() REQUIRES(mutex_) {
    over_ = true;
    if (options_.include_usage) {
      ordered_json chunk = ToJson(options_.identity);
      chunk["choices"] = ordered_json::array();
      chunk["usage"] = ToJson(totals_.usage);
      chunk["timings"] = ToJson(totals_.timings);
      stream_->Send(WriteJson(chunk));
    }
    stream_->Done();
  }

  const std::shared_ptr<SseStream> stream_;
  const std::shared_ptr<CallGroup> calls_;
  const CompletionsAnswerOptions options_;
  Mutex mutex_;
  std::vector<LegacyLogprobs> logprobs_ GUARDED_BY(mutex_);
  Totals totals_ GUARDED_BY(mutex_);
  bool over_ GUARDED_BY(mutex_) = false;
};

}  // namespace

std::shared_ptr<CompletionsAnswer> MakeCompletionsJsonAnswer(std::shared_ptr<HttpResponder> responder,
                                                             std::shared_ptr<CallGroup> calls,
                                                             const CompletionsAnswerOptions& options) {
  return std::make_shared<JsonAnswer>(std::move(responder), std::move(calls), options);
}

std::shared_ptr<CompletionsAnswer> MakeCompletionsStreamAnswer(std::shared_ptr<SseStream> stream,
                                                               std::shared_ptr<CallGroup> calls,
                                                               const CompletionsAnswerOptions& options) {
  return std::make_shared<StreamAnswer>(std::move(stream), std::move(calls), options);
}

}  // namespace moepool
