#include "gateway/openai/legacy_logprobs.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "gateway/openai/answer_json.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

// Code points that begin in `bytes`: a character in several tokens is counted with the first.
int64_t CodePoints(const std::string& bytes) {
  return std::count_if(bytes.begin(), bytes.end(),
                       [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

// Of tokens that are written alike the most likely one is shown, which comes first.
ordered_json TopLogprobs(const TokenLogprobEntries& entries) {
  ordered_json top = ordered_json::object();
  for (const LogprobEntry& entry : entries.top) {
    const std::string text = TokenText(entry.bytes);
    if (!top.contains(text)) top[text] = entry.logprob;
  }
  const std::string text = TokenText(entries.token.bytes);
  if (!top.contains(text)) top[text] = entries.token.logprob;
  return top;
}

}  // namespace

void LegacyLogprobs::Add(const std::vector<TokenLogprobEntries>& logprobs) {
  for (const TokenLogprobEntries& entries : logprobs) {
    const char* const comma = tokens_.empty() ? "" : ",";
    const bool first = std::isnan(entries.token.logprob);
    absl::StrAppend(&tokens_, comma, WriteJson(TokenText(entries.token.bytes)));
    absl::StrAppend(&token_logprobs_, comma, first ? "null" : WriteJson(entries.token.logprob));
    absl::StrAppend(&top_logprobs_, comma, first ? "null" : WriteJson(TopLogprobs(entries)));
    absl::StrAppend(&offsets_, comma, offset_);
    offset_ += CodePoints(entries.token.bytes);
  }
}

std::string LegacyLogprobs::Take() {
  std::string written =
      absl::StrCat("{\"tokens\":[", tokens_, "],\"token_logprobs\":[", token_logprobs_,
                   "],\"top_logprobs\":[", top_logprobs_, "],\"text_offset\":[", offsets_, "]}");
  for (std::string* list : {&tokens_, &token_logprobs_, &top_logprobs_, &offsets_}) list->clear();
  return written;
}

}  // namespace moepool
