#include "gateway/openai/chat_answer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/http/gathered_answer.h"

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

class ChatJsonAnswer : public GatheredAnswer {
 public:
  ChatJsonAnswer(std::shared_ptr<HttpResponder> responder, std::shared_ptr<CallGroup> calls,
                 const ChatAnswerOptions& options)
      : GatheredAnswer(std::move(responder), std::move(calls), options.n), options_(options) {}

 private:
  std::string WriteLogprobs(const std::vector<TokenLogprobEntries>& logprobs) const override {
    return WriteChatLogprobs(logprobs);
  }

  std::string Write(const std::vector<GatheredChoice>& choices, const InferEvent& last) const override {
    std::string written;
    for (size_t i = 0; i < choices.size(); ++i) {
      absl::StrAppend(&written, i == 0 ? "" : ",", WriteChoice(i, choices[i]));
    }
    std::string body =
        WithMember(WriteJson(ToJson(options_.identity)), "choices", absl::StrCat("[", written, "]"));
    body = WithMember(std::move(body), "usage", WriteJson(ToJson(last.usage)));
    return WithMember(std::move(body), "timings", WriteJson(ToJson(last.timings)));
  }

  std::string WriteChoice(size_t index, const GatheredChoice& choice) const {
    ordered_json message = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    if (choice.text.empty() && !choice.tool_calls.empty()) message["content"] = nullptr;
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

  const ChatAnswerOptions options_;
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
