#include "gateway/http/infer_answer.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/http/openai_error.h"
#include "nlohmann/json.hpp"

namespace moepool {
namespace {

using nlohmann::json;

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

const char* Name(FinishReason reason) {
  if (reason == FinishReason::kToolCalls) return "tool_calls";
  return reason == FinishReason::kStop ? "stop" : "length";
}

json ToJson(const ToolCallDelta& delta) {
  json call = {{"index", delta.index}, {"arguments", delta.arguments}};
  if (!delta.id.empty()) call["id"] = delta.id;
  if (!delta.name.empty()) call["name"] = delta.name;
  return call;
}

json ToJson(const LogprobEntry& entry) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(entry.bytes.data());
  return {{"id", entry.id},
          {"text", entry.bytes},  // U+FFFD where it is no whole character
          {"bytes", std::vector<int>(bytes, bytes + entry.bytes.size())},
          {"logprob", std::isnan(entry.logprob) ? json() : json(entry.logprob)}};
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
            {"completion_tokens", event.usage.completion_tokens},
            {"reasoning_tokens", event.usage.reasoning_tokens}}},
          {"timings",
           {{"queue_ms", event.timings.queue_ms},
            {"ttft_ms", event.timings.ttft_ms},
            {"decode_ms", event.timings.decode_ms}}}};
}

class JsonAnswer : public InferAnswer {
 public:
  JsonAnswer(std::shared_ptr<HttpResponder> responder, std::shared_ptr<CallGroup> calls,
             const InferAnswerOptions& options)
      : responder_(std::move(responder)),
        calls_(std::move(calls)),
        options_(options),
        choices_(static_cast<size_t>(std::max(options.n, 1))) {}

  void OnEvent(InferEvent event) override {
    if (over_) return;
    Choice& choice = choices_[static_cast<size_t>(event.index)];
    choice.text += event.text;
    choice.reasoning += event.reasoning;
    AddToolCalls(event.tool_calls, &choice.tool_calls);
    const size_t before = choice.logprobs.size() + choice.prompt_logprobs.size();
    AddWritten(event.logprobs, &choice.logprobs);
    AddWritten(event.prompt_logprobs, &choice.prompt_logprobs);
    bytes_ += event.text.size() + event.reasoning.size() + choice.logprobs.size() +
              choice.prompt_logprobs.size() - before;
    if (bytes_ > kMaxAnswerBytes) {
      over_ = true;
      responder_->Send(ErrorResponse(AnswerTooLarge()));
      return calls_->Cancel();
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
      response.body = Dump(Summary(event));
      AppendList("choices", choices, &response.body);
    }
    responder_->Send(std::move(response));
  }

 private:
  struct Choice {
    std::string text;
    std::string reasoning;
    std::vector<ToolCallDelta> tool_calls;  // whole ones
    std::string logprobs;  // elements, written out: a tree of them would take ten times the memory
    std::string prompt_logprobs;
    FinishReason reason = FinishReason::kNone;
    uint64_t seed = 0;
  };
  static void AddWritten(const std::vector<TokenLogprobEntries>& logprobs, std::string* written) {
    for (const TokenLogprobEntries& entries : logprobs) {
      const json token = ToJson(std::vector<TokenLogprobEntries>{entries});
      absl::StrAppend(written, written->empty() ? "" : ",", Dump(token[0]));
    }
  }
  // Adds a list of written elements to a written object, which is not empty.
  static void AppendList(const char* name, const std::string& elements, std::string* object) {
    object->pop_back();
    absl::StrAppend(object, ",\"", name, "\":[", elements, "]}");
  }
  std::string Written(json object, const Choice& choice) const {
    object["text"] = choice.text;
    object["finish_reason"] = Name(choice.reason);
    object["seed"] = choice.seed;
    if (!choice.reasoning.empty()) object["reasoning"] = choice.reasoning;
    for (const ToolCallDelta& call : choice.tool_calls) object["tool_calls"].push_back(ToJson(call));
    std::string text = Dump(object);
    if (options_.logprobs) AppendList("logprobs", choice.logprobs, &text);
    if (!choice.prompt_logprobs.empty()) AppendList("prompt_logprobs", choice.prompt_logprobs, &text);
    return text;
  }

  const std::shared_ptr<HttpResponder> responder_;
  const std::shared_ptr<CallGroup> calls_;
  const InferAnswerOptions options_;
  size_t bytes_ = 0;
  bool over_ = false;
  std::vector<Choice> choices_;
};

class StreamAnswer : public InferAnswer {
 public:
  StreamAnswer(std::shared_ptr<SseStream> stream, const InferAnswerOptions& options)
      : stream_(std::move(stream)), several_(options.n > 1) {}

  void OnEvent(InferEvent event) override {
    if (HasNews(event)) {
      json data = {{"text", std::move(event.text)}};
      if (several_) data["index"] = event.index;
      if (!event.reasoning.empty()) data["reasoning"] = std::move(event.reasoning);
      for (const ToolCallDelta& delta : event.tool_calls) data["tool_calls"].push_back(ToJson(delta));
      if (!event.prompt_logprobs.empty()) data["prompt_logprobs"] = ToJson(event.prompt_logprobs);
      if (!event.logprobs.empty()) data["logprobs"] = ToJson(event.logprobs);
      stream_->Send(Dump(data));
    }
    if (several_ && event.ended) {
      json end = {{"text", ""}, {"index", event.index}};
      AddEnd(event, &end);
      stream_->Send(Dump(end));
    }
    if (!event.finished) return;
    if (!event.status.ok()) return stream_->Fail(event.status);
    json last = Summary(event);
    if (!several_) {
      last["text"] = "";
      AddEnd(event, &last);
    }
    stream_->Send(Dump(last));
    stream_->Done();
  }

 private:
  static bool HasNews(const InferEvent& event) {
    return !event.text.empty() || !event.reasoning.empty() || !event.tool_calls.empty() ||
           !event.logprobs.empty() || !event.prompt_logprobs.empty();
  }
  static void AddEnd(const InferEvent& event, json* data) {
    (*data)["finish_reason"] = Name(event.reason);
    (*data)["seed"] = event.seed;
  }

  const std::shared_ptr<SseStream> stream_;
  const bool several_;
};

}  // namespace

void AddToolCalls(const std::vector<ToolCallDelta>& deltas, std::vector<ToolCallDelta>* calls) {
  for (const ToolCallDelta& delta : deltas) {
    const auto call = std::find_if(calls->begin(), calls->end(),
                                   [&](const ToolCallDelta& c) { return c.index == delta.index; });
    if (call == calls->end()) {
      calls->push_back(delta);
    } else {
      call->arguments += delta.arguments;
    }
  }
}

absl::Status AnswerTooLarge() {
  return absl::OutOfRangeError(
      absl::StrCat("the answer has grown beyond ", kMaxAnswerBytes, " bytes: use stream, or ask for less"));
}

std::shared_ptr<InferAnswer> MakeJsonAnswer(std::shared_ptr<HttpResponder> responder,
                                            std::shared_ptr<CallGroup> calls,
                                            const InferAnswerOptions& options) {
  return std::make_shared<JsonAnswer>(std::move(responder), std::move(calls), options);
}

std::shared_ptr<InferAnswer> MakeStreamAnswer(std::shared_ptr<SseStream> stream,
                                              const InferAnswerOptions& options) {
  return std::make_shared<StreamAnswer>(std::move(stream), options);
}

}  // namespace moepool
