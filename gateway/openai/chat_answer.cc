#include "gateway/openai/chat_answer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/http/openai_error.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

ordered_json FunctionOf(const ToolCallDelta& call) {
  ordered_json function;
  if (!call.name.empty()) function["name"] = call.name;
  function["arguments"] = call.arguments;
  return function;
}

std::string WriteContentLogprobs(const std::string& elements) {
  return absl::StrCat("{\"content\":[", elements, "],\"refusal\":null}");
}

class ChatJsonAnswer : public InferAnswer {
 public:
  ChatJsonAnswer(std::shared_ptr<HttpResponder> responder, std::shared_ptr<CallGroup> calls,
                 const ChatAnswerOptions& options)
      : responder_(std::move(responder)),
        calls_(std::move(calls)),
        options_(options),
        choices_(static_cast<size_t>(std::max(options.n, 1))) {}

  void OnEvent(InferEvent event) override {
    if (over_) return;
    Choice& choice = choices_[static_cast<size_t>(event.index)];
    const std::string logprobs = WriteChatLogprobs(event.logprobs);
    if (!logprobs.empty()) {
      absl::StrAppend(&choice.logprobs, choice.logprobs.empty() ? "" : ",", logprobs);
    }
    choice.content += event.text;
    choice.reasoning += event.reasoning;
    AddToolCalls(event.tool_calls, &choice.tool_calls);
    bytes_ += logprobs.size() + event.text.size() + event.reasoning.size();
    if (event.ended) {
      choice.reason = event.reason;
      choice.seed = event.seed;
    }
    if (bytes_ > kMaxAnswerBytes) {
      over_ = true;
      responder_->Send(ErrorResponse(AnswerTooLarge()));
      return calls_->Cancel();
    }
    if (event.finished) Finish(event);
  }

 private:
  struct Choice {
    std::string content;
    std::string reasoning;
    std::vector<ToolCallDelta> tool_calls;  // whole ones
    std::string logprobs;                   // written list elements
    FinishReason reason = FinishReason::kNone;
    uint64_t seed = 0;
  };

  void Finish(const InferEvent& event) {
    over_ = true;
    if (!event.status.ok()) return responder_->Send(ErrorResponse(event.status));
    std::string choices;
    for (size_t i = 0; i < choices_.size(); ++i) {
      absl::StrAppend(&choices, i == 0 ? "" : ",", Written(i, choices_[i]));
    }
    ordered_json usage = ToJson(event.usage);
    HttpResponse response;
    response.body =
        WithMember(WriteJson(ToJson(options_.identity)), "choices", absl::StrCat("[", choices, "]"));
    response.body = WithMember(std::move(response.body), "usage", WriteJson(usage));
    response.body = WithMember(std::move(response.body), "timings", WriteJson(ToJson(event.timings)));
    responder_->Send(std::move(response));
  }

  std::string Written(size_t index, const Choice& choice) const {
    ordered_json message = {{"role", "assistant"}, {"content", choice.content}, {"refusal", nullptr}};
    if (choice.content.empty() && !choice.tool_calls.empty()) message["content"] = nullptr;
    if (!choice.reasoning.empty()) message["reasoning_content"] = choice.reasoning;
    for (const ToolCallDelta& call : choice.tool_calls) {
      message["tool_calls"].push_back(
          {{"id", call.id}, {"type", "function"}, {"function", FunctionOf(call)}});
    }
    const ordered_json object = {{"index", index},
                                 {"message", std::move(message)},
                                 {"finish_reason", FinishReasonName(choice.reason)},
                                 {"seed", choice.seed}};
    return WithMember(WriteJson(object), "logprobs",
                      options_.logprobs ? WriteContentLogprobs(choice.logprobs) : "null");
  }

  const std::shared_ptr<HttpResponder> responder_;
  const std::shared_ptr<CallGroup> calls_;
  const ChatAnswerOptions options_;
  std::vector<Choice> choices_;
  size_t bytes_ = 0;
  bool over_ = false;
};

class ChatStreamAnswer : public InferAnswer {
 public:
  ChatStreamAnswer(std::shared_ptr<SseStream> stream, const ChatAnswerOptions& options)
      : stream_(std::move(stream)),
        options_(options),
        begun_(static_cast<size_t>(std::max(options.n, 1)), false) {}

  void OnEvent(InferEvent event) override {
    if (event.finished && !event.status.ok()) return stream_->Fail(event.status);
    if (!begun_[static_cast<size_t>(event.index)]) {
      begun_[static_cast<size_t>(event.index)] = true;
      Send(event.index, {{"role", "assistant"}, {"content", ""}});
    }
    std::string logprobs = WriteChatLogprobs(event.logprobs);
    if (!event.reasoning.empty()) {
      Send(event.index, {{"reasoning_content", std::move(event.reasoning)}}, std::exchange(logprobs, ""));
    }
    if (!event.text.empty() || !logprobs.empty()) {
      Send(event.index, {{"content", std::move(event.text)}}, std::move(logprobs));
    }
    for (const ToolCallDelta& call : event.tool_calls) {
      ordered_json delta = {{"index", call.index}};
      if (!call.id.empty()) delta.update({{"id", call.id}, {"type", "function"}});
      delta["function"] = FunctionOf(call);
      Send(event.index, {{"tool_calls", ordered_json::array({std::move(delta)})}});
    }
    if (event.ended) {
      Send(event.index, ordered_json::object(), "", FinishReasonName(event.reason));
    }
    if (event.finished) Finish(event);
  }

 private:
  // A chunk of one choice; logprobs are list elements.
  void Send(int32_t index, ordered_json delta, const std::string& logprobs = "",
            const char* finish_reason = nullptr) {
    const ordered_json choice = {
        {"index", index},
        {"delta", std::move(delta)},
        {"finish_reason", finish_reason == nullptr ? ordered_json() : ordered_json(finish_reason)}};
    const std::string written =
        WithMember(WriteJson(choice), "logprobs", logprobs.empty() ? "null" : WriteContentLogprobs(logprobs));
    std::string chunk =
        WithMember(WriteJson(ToJson(options_.identity)), "choices", absl::StrCat("[", written, "]"));
    if (options_.include_usage) chunk = WithMember(std::move(chunk), "usage", "null");
    stream_->Send(chunk);
  }

  void Finish(const InferEvent& event) {
    if (options_.include_usage) {
      ordered_json chunk = ToJson(options_.identity);
      chunk["choices"] = ordered_json::array();
      chunk["usage"] = ToJson(event.usage);
      chunk["timings"] = ToJson(event.timings);
      stream_->Send(WriteJson(chunk));
    }
    stream_->Done();
  }

  const std::shared_ptr<SseStream> stream_;
  const ChatAnswerOptions options_;
  std::vector<bool> begun_;
};

}  // namespace

std::shared_ptr<InferAnswer> MakeChatJsonAnswer(std::shared_ptr<HttpResponder> responder,
                                                std::shared_ptr<CallGroup> calls,
                                                const ChatAnswerOptions& options) {
  return std::make_shared<ChatJsonAnswer>(std::move(responder), std::move(calls), options);
}

std::shared_ptr<InferAnswer> MakeChatStreamAnswer(std::shared_ptr<SseStream> stream,
                                                  const ChatAnswerOptions& options) {
  return std::make_shared<ChatStreamAnswer>(std::move(stream), options);
}

}  // namespace moepool
