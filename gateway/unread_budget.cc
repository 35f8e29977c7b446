#include "gateway/unread_budget.h"

#include "gateway/inference.h"

namespace moepool {
namespace {

constexpr size_t kEventBytes = 256;
constexpr size_t kLogprobBytes = 64;  // and its token's

size_t Bytes(const LogprobEntry& entry) { return kLogprobBytes + entry.bytes.size(); }

size_t Bytes(const std::vector<TokenLogprobEntries>& tokens) {
  size_t bytes = 0;
  for (const TokenLogprobEntries& entries : tokens) {
    bytes += Bytes(entries.token);
    for (const LogprobEntry& top : entries.top) bytes += Bytes(top);
  }
  return bytes;
}

}  // namespace

size_t UnreadBytes(const InferEvent& event) {
  size_t bytes =
      kEventBytes + event.text.size() + event.reasoning.size() + event.ids.size() * sizeof(int32_t);
  for (const ToolCallDelta& call : event.tool_calls) {
    bytes += call.id.size() + call.name.size() + call.arguments.size();
  }
  return bytes + Bytes(event.logprobs) + Bytes(event.prompt_logprobs);
}

}  // namespace moepool
