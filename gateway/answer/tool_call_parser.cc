#include "gateway/answer/tool_call_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/answer/text_match.h"
#include "gateway/json_fields.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxHeaderBytes = 256;
constexpr std::string_view kDeepSeekCall = "<｜tool▁call▁begin｜>";
constexpr std::string_view kDeepSeekName = "<｜tool▁sep｜>";

// What may stand between the JSON of a call and what follows.
constexpr std::string_view kHermesEndings[] = {"</tool_call>"};
constexpr std::string_view kLlamaEndings[] = {";", ","};
constexpr std::string_view kDeepSeekEndings[] = {"```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"};

std::span<const std::string_view> EndingsOf(ToolFormat format) {
  switch (format) {
    case ToolFormat::kHermes:
      return kHermesEndings;
    case ToolFormat::kLlama:
      return kLlamaEndings;
    case ToolFormat::kDeepSeek:
      return kDeepSeekEndings;
    case ToolFormat::kMistral:
      return {};
  }
  return {};
}

bool BeginsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

// Not empty, and more of it could make `marker`.
bool MayBecome(std::string_view text, std::string_view marker) {
  return text.size() < marker.size() && BeginsWith(marker, text);
}

std::string_view Stripped(std::string_view text) {
  text = WithoutLeadingSpace(text);
  return text.substr(0, text.size() - TrailingSpace(text));
}

}  // namespace

ToolCallParser::ToolCallParser(ToolCallParserOptions options)
    : options_(std::move(options)), marker_(ToolCallMarker(options_.format)) {
  if (options_.in_call) BeginCall("");
}

ToolCallParser::Output ToolCallParser::Push(std::string_view text) {
  Output out;
  if (stopped_) return out;
  held_ += text;
  Run(/*last=*/false, &out);
  return out;
}

ToolCallParser::Output ToolCallParser::Finish() {
  Output out;
  if (stopped_) return out;
  Run(/*last=*/true, &out);
  return out;
}

void ToolCallParser::Run(bool last, Output* out) {
  bool more = true;
  while (more && !stopped_) {
    switch (state_) {
      case State::kText:
        more = StepText(last, out);
        break;
      case State::kHeader:
        more = StepHeader(last, out);
        break;
      case State::kJson:
        more = StepJson(last, out);
        break;
      case State::kAfter:
        more = StepAfter(last);
        break;
    }
  }
}

bool ToolCallParser::StepText(bool last, Output* out) {
  // An answer that is JSON from its first character on may be Llama's call.
  if (options_.format == ToolFormat::kLlama && !said_) {
    const std::string_view rest = WithoutLeadingSpace(held_);
    if (rest.empty() && !last) return false;
    if (!rest.empty() && rest[0] == '{') {
      space_ += held_.substr(0, held_.size() - rest.size());
      held_ = std::string(rest);
      BeginCall("");
      return true;
    }
  }
  const size_t at = held_.find(marker_);
  if (at != std::string::npos) {
    AddText(std::string_view(held_).substr(0, at), out);
    held_.erase(0, at + marker_.size());
    BeginCall(marker_);
    return true;
  }
  const size_t keep = last ? 0 : PartialMarker(held_, marker_);
  AddText(std::string_view(held_).substr(0, held_.size() - keep), out);
  held_.erase(0, held_.size() - keep);
  if (last) out->text += std::exchange(space_, "");
  return false;
}

bool ToolCallParser::StepHeader(bool last, Output* out) {
  const bool named = options_.format == ToolFormat::kMistral || options_.format == ToolFormat::kDeepSeek;
  for (size_t i = 0; i < held_.size(); ++i) {
    const char c = held_[i];
    const bool bare = Stripped(header_).empty();
    const bool begins = c == '{' || (c == '[' && bare && options_.format == ToolFormat::kMistral);
    if (begins) {
      raw_ += held_.substr(0, i);
      held_.erase(0, i);
      state_ = State::kJson;
      return true;
    }
    header_ += c;
    const bool space = kJsonSpace.find(c) != std::string_view::npos;
    if ((named || space) && header_.size() <= kMaxHeaderBytes) continue;
    raw_ += held_.substr(0, i + 1);
    held_.erase(0, i + 1);
    GiveUp(out);
    return true;
  }
  raw_ += std::exchange(held_, "");
  if (last) GiveUp(out);
  return last;
}

bool ToolCallParser::StepJson(bool last, Output* out) {
  const size_t used = extent_.Push(held_);
  const std::string piece = held_.substr(0, used);
  held_.erase(0, used);
  raw_ += piece;
  json_ += piece;
  if (options_.trusted) Stream(piece, out);
  if (extent_.complete()) {
    EndJson(out);
    return true;
  }
  if (last && !streaming_) GiveUp(out);
  if (last && streaming_) state_ = State::kAfter;
  return last;
}

bool ToolCallParser::StepAfter(bool last) {
  while (true) {
    const size_t space = held_.size() - WithoutLeadingSpace(held_).size();
    space_ += held_.substr(0, space);
    held_.erase(0, space);
    bool ended = false;
    bool wait = false;
    for (const std::string_view ending : EndingsOf(options_.format)) {
      if (BeginsWith(held_, ending)) {
        held_.erase(0, ending.size());
        space_.clear();
        ended = true;
        break;
      }
      wait |= MayBecome(held_, ending);
    }
    if (ended) continue;
    const bool again = options_.format == ToolFormat::kDeepSeek;
    if (BeginsWith(held_, marker_)) {
      held_.erase(0, marker_.size());
      BeginCall(marker_);
      return true;
    }
    if (again && BeginsWith(held_, kDeepSeekCall)) {
      BeginCall("");
      return true;
    }
    if (options_.format == ToolFormat::kLlama && !held_.empty() && held_[0] == '{') {
      BeginCall("");
      return true;
    }
    wait |= MayBecome(held_, marker_) || (again && MayBecome(held_, kDeepSeekCall));
    if (wait && !last) return false;
    if (held_.empty()) {
      if (last) space_.clear();
      return false;
    }
    state_ = State::kText;
    return true;
  }
}

void ToolCallParser::BeginCall(std::string_view marker) {
  raw_ = marker;
  header_.clear();
  json_.clear();
  extent_ = JsonExtent();
  streamer_ = CallStreamer();
  streaming_ = false;
  state_ = State::kHeader;
}

std::string ToolCallParser::NameInHeader() const {
  std::string_view text = header_;
  if (options_.format == ToolFormat::kDeepSeek) {
    const size_t begin = text.find(kDeepSeekCall);
    const size_t separator = text.find(kDeepSeekName);
    if (separator == std::string_view::npos) return "";
    // "function" SEPARATOR name "```json", or name SEPARATOR.
    const std::string_view after = text.substr(separator + kDeepSeekName.size());
    text = Stripped(after.substr(0, after.find("```")));
    if (text.empty() && begin != std::string_view::npos) {
      const size_t from = begin + kDeepSeekCall.size();
      text = header_;
      text = text.substr(from, separator - from);
    }
  } else {
    text = text.substr(0, text.find("[ARGS]"));
    text = text.substr(0, text.find("[CALL_ID]"));
  }
  return std::string(Stripped(text));
}

void ToolCallParser::Stream(std::string_view json, Output* out) {
  if (const std::string name = NameInHeader(); !name.empty()) {
    if (!std::exchange(streaming_, true)) {
      AddCall(name, "", out);
    }
    out->calls.push_back({calls_ - 1, "", "", std::string(json)});
    return;
  }
  const CallStreamer::Output piece = streamer_.Push(json);
  if (!piece.name.empty() && options_.names.contains(piece.name)) {
    AddCall(piece.name, "", out);
    streaming_ = true;
  }
  if (streaming_ && !piece.arguments.empty()) out->calls.push_back({calls_ - 1, "", "", piece.arguments});
}

void ToolCallParser::EndJson(Output* out) {
  const auto finish = [this] {
    space_.clear();
    said_ = true;
    stopped_ = !options_.parallel;
    state_ = State::kAfter;
  };
  if (streaming_) return finish();
  absl::StatusOr<ordered_json> parsed = ParseJson(json_);
  if (!parsed.ok()) return GiveUp(out);
  ordered_json list = parsed->is_array() ? *std::move(parsed) : ordered_json::array({*std::move(parsed)});
  std::vector<std::pair<std::string, std::string>> calls;
  const std::string named = NameInHeader();
  for (const ordered_json& call : list) {
    std::string name = named;
    const ordered_json* arguments = &call;
    if (named.empty()) {
      if (!call.is_object() || !call.contains("name") || !call["name"].is_string()) return GiveUp(out);
      name = call["name"].get<std::string>();
      static const ordered_json kNone = ordered_json::object();
      arguments = call.contains("arguments")    ? &call["arguments"]
                  : call.contains("parameters") ? &call["parameters"]
                                                : &kNone;
    }
    if (!arguments->is_object() || !options_.names.contains(name)) return GiveUp(out);
    calls.emplace_back(std::move(name), arguments->dump());
  }
  if (calls.empty()) return GiveUp(out);
  if (!options_.parallel) calls.resize(1);
  for (auto& [name, arguments] : calls) AddCall(std::move(name), std::move(arguments), out);
  finish();
}

void ToolCallParser::GiveUp(Output* out) {
  state_ = State::kText;
  AddText(std::exchange(raw_, ""), out);
}

void ToolCallParser::AddText(std::string_view text, Output* out) {
  const size_t space = TrailingSpace(text);
  const std::string_view solid = text.substr(0, text.size() - space);
  if (!solid.empty()) {
    said_ = true;
    out->text += std::exchange(space_, "");
    out->text += solid;
  }
  space_ += text.substr(text.size() - space);
}

void ToolCallParser::AddCall(std::string name, std::string arguments, Output* out) {
  space_.clear();
  out->calls.push_back({calls_++, MakeToolCallId(options_.format), std::move(name), std::move(arguments)});
}

}  // namespace moepool
