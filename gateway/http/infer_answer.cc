#include "gateway/http/infer_answer.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/http/gathered_answer.h"
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

json ToJson(const TokenLogprobEntries& entries) {
  json token = ToJson(entries.token);
  token["top"] = json::array();
  for (const LogprobEntry& top : entries.top) token["top"].push_back(ToJson(top));
  return token;
}

json ToJson(const std::vector<TokenLogprobEntries>& logprobs) {
  json list = json::array();
  for (const TokenLogprobEntries& entries : logprobs) list.push_back(ToJson(entries));
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

class JsonAnswer : public GatheredAnswer {
 public:
  JsonAnswer(std::shared_ptr<HttpResponder> responder, std::shared_ptr<CallGroup> calls,
             const InferAnswerOptions& options)
      : GatheredAnswer(std::move(responder), std::move(calls), options.n), options_(options) {}

 private:
  std::string WriteLogprobs(const std::vector<TokenLogprobEntries>& logprobs) const override {
    std::string written;
    for (const TokenLogprobEntries& entries : logprobs) {
      absl::StrAppend(&written, written.empty() ? "" : ",", Dump(ToJson(entries)));
    }
    return written;
  }

  std::string Write(const std::vector<GatheredChoice>& choices, const InferEvent& last) const override {
    if (choices.size() == 1) return WriteChoice(Summary(last), choices[0]);
    std::string written;
    for (size_t i = 0; i < choices.size(); ++i) {
      absl::StrAppend(&written, i == 0 ? "" : ",", WriteChoice(json{{"index", i}}, choices[i]));
    }
    std::string body = Dump(Summary(last));
    AppendList("choices", written, &body);
    return body;
  }

  // Adds a list of written elements to a written object, which is not empty.
  static void AppendList(const char* name, const std::string& elements, std::string* object) {
    object->pop_back();
    absl::StrAppend(object, ",\"", name, "\":[", elements, "]}");
  }

  std::string WriteChoice(json object, const GatheredChoice& choice) const {
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

  const InferAnswerOptions options_;
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
