#include "gateway/openai/answer_json.h"

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/base/utf8.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

ordered_json ToJson(const LogprobEntry& entry) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(entry.bytes.data());
  return {{"token", TokenText(entry.bytes)},
          {"logprob", std::isnan(entry.logprob) ? ordered_json() : ordered_json(entry.logprob)},
          {"bytes", std::vector<int>(bytes, bytes + entry.bytes.size())}};
}

}  // namespace

AnswerIdentity MakeIdentity(const char* prefix, const char* object, const std::string& model) {
  static thread_local std::random_device device;
  return {absl::StrFormat("%s-%08x%08x%08x", prefix, device(), device(), device()), object,
          absl::ToUnixSeconds(absl::Now()), model};
}

ordered_json ToJson(const AnswerIdentity& identity) {
  return {{"id", identity.id},
          {"object", identity.object},
          {"created", identity.created_unix_s},
          {"model", identity.model}};
}

ordered_json ToJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"completion_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens}}}};
}

ordered_json ToJson(const Timings& timings) {
  return {{"queue_ms", timings.queue_ms}, {"ttft_ms", timings.ttft_ms}, {"decode_ms", timings.decode_ms}};
}

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kToolCalls:
      return "tool_calls";
    default:
      return "stop";
  }
}

std::string TokenText(const std::string& bytes) {
  if (IsUtf8(bytes)) return bytes;
  std::string text = "bytes:";
  for (const char c : bytes) absl::StrAppendFormat(&text, "\\x%02x", static_cast<uint8_t>(c));
  return text;
}

std::string WriteChatLogprobs(const std::vector<TokenLogprobEntries>& logprobs) {
  std::string written;
  for (const TokenLogprobEntries& entries : logprobs) {
    ordered_json token = ToJson(entries.token);
    token["top_logprobs"] = ordered_json::array();
    for (const LogprobEntry& top : entries.top) token["top_logprobs"].push_back(ToJson(top));
    absl::StrAppend(&written, written.empty() ? "" : ",", WriteJson(token));
  }
  return written;
}

std::string WriteJson(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string WithMember(std::string object, const char* name, const std::string& value) {
  object.pop_back();
  absl::StrAppend(&object, ",\"", name, "\":", value, "}");
  return object;
}

}  // namespace moepool
