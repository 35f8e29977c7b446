#include "gateway/answer/tool_call_parser.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "gateway/answer/text_match.h"

namespace moepool {
namespace {

bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
}

std::vector<std::string> Split(const ToolCallForm& form, const std::string& a, const std::string& b,
                               const std::string& c = "") {
  std::vector<std::string> pieces;
  for (const std::string* text : {&a, &b, &c}) {
    for (std::string& piece : SplitSpelling(*text, form.tokens)) pieces.push_back(std::move(piece));
  }
  return pieces;
}

}  // namespace

ToolCallParser::ToolCallParser(ToolCallParserOptions options)
    : options_(std::move(options)),
      first_lead_(Split(options_.form, options_.form.before_first, options_.form.before_name)),
      next_lead_(Split(options_.form, options_.form.after_arguments, options_.form.between,
                       options_.form.before_name)),
      before_arguments_(SplitSpelling(options_.form.before_arguments, options_.form.tokens)),
      end_(Split(options_.form, options_.form.after_arguments, options_.form.after_last)) {
  if (options_.in_call) state_ = State::kHead;
}

ToolCallParser::Output ToolCallParser::Push(std::string_view text) {
  Output out;
  held_ += text;
  Run(/*last=*/false, &out);
  return out;
}

ToolCallParser::Output ToolCallParser::Finish() {
  Output out;
  Run(/*last=*/true, &out);
  return out;
}

void ToolCallParser::Run(bool last, Output* out) {
  bool more = true;
  while (more) {
    switch (state_) {
      case State::kText:
        more = StepText(last, out);
        break;
      case State::kHead:
        more = StepHead(last, out);
        break;
      case State::kArguments:
        more = StepArguments(out);
        break;
      case State::kAfter:
        more = StepAfter(last, out);
        break;
    }
  }
}

ToolCallParser::Match ToolCallParser::MatchPieces(const Pieces& pieces, std::string_view* text) {
  std::string_view rest = *text;
  for (const std::string& piece : pieces) {
    rest = WithoutLeadingSpace(rest);
    if (rest.size() < piece.size() && std::string_view(piece).substr(0, rest.size()) == rest) {
      return Match::kMore;
    }
    if (rest.substr(0, piece.size()) != piece) return Match::kNo;
    rest.remove_prefix(piece.size());
  }
  *text = rest;
  return Match::kYes;
}

ToolCallParser::Match ToolCallParser::MatchHead(const Pieces& lead, std::string_view* text,
                                                std::string* name) const {
  std::string_view rest = *text;
  if (const Match match = MatchPieces(lead, &rest); match != Match::kYes) return match;
  if (lead.empty()) rest = WithoutLeadingSpace(rest);
  size_t length = 0;
  while (length < rest.size() && IsNameCharacter(rest[length])) ++length;
  *name = rest.substr(0, length);
  rest.remove_prefix(length);
  if (const Match match = MatchPieces(before_arguments_, &rest); match != Match::kYes) return match;
  if (!options_.names.contains(*name)) return Match::kNo;
  rest = WithoutLeadingSpace(rest);
  if (rest.empty()) return Match::kMore;
  if (rest[0] != '{') return Match::kNo;
  *text = rest;
  return Match::kYes;
}

bool ToolCallParser::StepText(bool last, Output* out) {
  if (!options_.form.marker_needed && !said_) {
    std::string_view rest = held_;
    std::string name;
    const Match match = MatchHead(first_lead_, &rest, &name);
    if (match == Match::kYes) {
      BeginArguments(rest, std::move(name), out);
      return true;
    }
    if (match == Match::kMore && !last) return false;
  }
  const std::string& marker = options_.form.marker;
  const size_t at = held_.find(marker);
  if (at != std::string::npos) {
    AddText(std::string_view(held_).substr(0, at), out);
    held_.erase(0, at + marker.size());
    marker_ = marker;
    state_ = State::kHead;
    return true;
  }
  const size_t keep = last ? 0 : PartialMarker(held_, marker);
  AddText(std::string_view(held_).substr(0, held_.size() - keep), out);
  held_.erase(0, held_.size() - keep);
  if (last && !after_call_) out->text += std::exchange(space_, "");
  return false;
}

bool ToolCallParser::StepHead(bool last, Output* out) {
  std::string_view rest = held_;
  std::string name;
  const Match match = MatchHead(first_lead_, &rest, &name);
  if (match == Match::kMore && !last) return false;
  if (match == Match::kYes) {
    BeginArguments(rest, std::move(name), out);
    return true;
  }
  // No call: the marker is text, and what follows may have another.
  state_ = State::kText;
  AddText(std::exchange(marker_, ""), out);
  said_ = true;
  return true;
}

bool ToolCallParser::StepArguments(Output* out) {
  const size_t used = extent_.Push(held_);
  if (used > 0) out->calls.push_back({calls_ - 1, "", "", held_.substr(0, used)});
  held_.erase(0, used);
  if (!extent_.complete()) return false;
  state_ = State::kAfter;
  return true;
}

bool ToolCallParser::StepAfter(bool last, Output* out) {
  std::string_view rest = held_;
  std::string name;
  const Match next = options_.form.several ? MatchHead(next_lead_, &rest, &name) : Match::kNo;
  if (next == Match::kYes) {
    BeginArguments(rest, std::move(name), out);
    return true;
  }
  if (next == Match::kMore && !last) return false;
  const Match end = MatchPieces(end_, &rest);
  if (end == Match::kMore) {
    if (last) held_.clear();  // the end was cut off
    return false;
  }
  held_ = std::string(rest);
  state_ = State::kText;
  return true;
}

void ToolCallParser::BeginArguments(std::string_view rest, std::string name, Output* out) {
  held_ = std::string(rest);
  marker_.clear();
  space_.clear();
  extent_ = JsonExtent();
  said_ = true;
  after_call_ = true;
  state_ = State::kArguments;
  out->calls.push_back({calls_++, MakeToolCallId(options_.format), std::move(name), ""});
}

void ToolCallParser::AddText(std::string_view text, Output* out) {
  const size_t space = TrailingSpace(text);
  const std::string_view solid = text.substr(0, text.size() - space);
  if (!solid.empty()) {
    said_ = true;
    after_call_ = false;
    out->text += std::exchange(space_, "");
    out->text += solid;
  }
  space_ += text.substr(text.size() - space);
}

}  // namespace moepool
