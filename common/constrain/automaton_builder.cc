#include "common/constrain/automaton_builder.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/str.h"
#include "common/base/utf8.h"

namespace moepool {
namespace {

// How far a repetition looks through names for the characters of its body.
constexpr int kMaxBodyDepth = 8;
constexpr int kMaxBodyParts = 64;
constexpr size_t kMaxOpened = 8;  // at a time: a name within a body within a body is a copy of each

struct ByteRange {
  uint8_t first;
  uint8_t last;
  auto operator<=>(const ByteRange&) const = default;
};
using ByteRanges = std::vector<ByteRange>;

// Calls visit(ranges) for sequences of byte ranges that stand for all of [first, last] together, each
// character once. Ranges are cut until the encodings of both ends differ in one byte followed by whole
// ranges.
template <typename Visit>
void SplitUtf8(char32_t first, char32_t last, const Visit& visit) {
  for (const char32_t limit : {U'\x7F', U'\u07FF', U'\uFFFF'}) {
    if (first <= limit && last > limit) {
      SplitUtf8(first, limit, visit);
      SplitUtf8(limit + 1, last, visit);
      return;
    }
  }
  const int length = first < 0x80 ? 1 : first < 0x800 ? 2 : first < 0x10000 ? 3 : 4;
  for (int i = 1; i < length; ++i) {
    const char32_t low = (char32_t{1} << (6 * i)) - 1;
    if ((first & ~low) == (last & ~low)) continue;
    if ((first & low) != 0) {
      SplitUtf8(first, first | low, visit);
      SplitUtf8((first | low) + 1, last, visit);
      return;
    }
    if ((last & low) != low) {
      SplitUtf8(first, (last & ~low) - 1, visit);
      SplitUtf8(last & ~low, last, visit);
      return;
    }
  }
  std::string a;
  std::string b;
  AppendUtf8(first, &a);
  AppendUtf8(last, &b);
  ByteRanges ranges;
  for (size_t i = 0; i < a.size(); ++i) {
    ranges.push_back({static_cast<uint8_t>(a[i]), static_cast<uint8_t>(b[i])});
  }
  visit(ranges);
}

}  // namespace

uint32_t AutomatonBuilder::NewNode(AutomatonNode::Kind kind) {
  if (draft_.nodes.size() == kMaxAutomatonNodes) {
    full_ = true;
    return 0;  // the draft is given up
  }
  draft_.nodes.emplace_back().node.kind = kind;
  return static_cast<uint32_t>(draft_.nodes.size() - 1);
}

uint32_t AutomatonBuilder::NewRule(uint32_t owner) {
  draft_.starts.push_back(kNoNode);
  draft_.owners.push_back(owner);
  return static_cast<uint32_t>(draft_.starts.size() - 1);
}

absl::Status AutomatonBuilder::Build() {
  for (uint32_t rule = 0; rule < grammar_.rules.size(); ++rule) NewRule(rule);
  for (uint32_t rule = 0; rule < grammar_.rules.size() && !full_; ++rule) {
    owner_ = rule;
    const uint32_t end = NewNode(AutomatonNode::Kind::kEnd);
    const uint32_t start = Build(grammar_.rules[rule].body, end);
    draft_.starts[rule] = start;
  }
  if (!full_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("the grammar takes more than ", kMaxAutomatonNodes, " places when it is spelled out in bytes"));
}

uint32_t AutomatonBuilder::Build(uint32_t expr_id, uint32_t next) {
  if (full_) return 0;
  const GrammarExpr& expr = grammar_.exprs[expr_id];
  switch (expr.kind) {
    case GrammarExpr::Kind::kChars: {
      const uint32_t node = NewNode(AutomatonNode::Kind::kBytes);
      AddChars(node, grammar_.sets[expr.index].Intersect(writable_), Counter::kReset, next);
      return node;
    }
    case GrammarExpr::Kind::kLiteral: {
      if (grammar_.literals[expr.index].empty()) return next;
      const uint32_t node = NewNode(AutomatonNode::Kind::kBytes);
      AddLiteral(node, grammar_.literals[expr.index], next);
      return node;
    }
    case GrammarExpr::Kind::kToken: {
      const std::string& name = grammar_.literals[expr.index];
      const uint32_t node = NewNode(AutomatonNode::Kind::kBytes);
      if (control_tokens_.contains(name)) {
        AddBytes(node, ControlTokenBytes(name), next);
      } else {
        AddLiteral(node, name, next);
      }
      return node;
    }
    case GrammarExpr::Kind::kRule: {
      if (draft_.nodes[next].node.kind == AutomatonNode::Kind::kRepeat) {
        // A return to a repetition is the end of one of its rounds.
        const uint32_t entry = NewNode(AutomatonNode::Kind::kChoice);
        draft_.nodes[entry].edges = {{0, 0, Counter::kReset, next}};
        next = entry;
      }
      const uint32_t node = NewNode(AutomatonNode::Kind::kCall);
      draft_.nodes[node].node.rule = expr.index;
      draft_.nodes[node].node.next = next;
      return node;
    }
    case GrammarExpr::Kind::kSequence:
      for (auto part = expr.parts.rbegin(); part != expr.parts.rend(); ++part) next = Build(*part, next);
      return next;
    case GrammarExpr::Kind::kAlternatives:
      return BuildChoice(expr, next);
    case GrammarExpr::Kind::kRepeat:
      return BuildRepeat(expr, next);
  }
  return 0;
}

uint32_t AutomatonBuilder::BuildChoice(const GrammarExpr& expr, uint32_t next) {
  const uint32_t choice = NewNode(AutomatonNode::Kind::kChoice);
  uint32_t literals = kNoNode;  // the tree of all literals
  const auto add = [&](uint32_t target) {
    draft_.nodes[choice].edges.push_back({0, 0, Counter::kReset, target});
  };
  for (const uint32_t part_id : expr.parts) {
    const GrammarExpr& part = grammar_.exprs[part_id];
    if (part.kind != GrammarExpr::Kind::kLiteral || grammar_.literals[part.index].empty()) {
      add(Build(part_id, next));
      continue;
    }
    if (literals == kNoNode) {
      literals = NewNode(AutomatonNode::Kind::kBytes);
      add(literals);
    }
    AddLiteral(literals, grammar_.literals[part.index], next);
  }
  return choice;
}

uint32_t AutomatonBuilder::BuildRepeat(const GrammarExpr& expr, uint32_t next) {
  if (expr.max == 0) return next;
  if (expr.min == 0 && expr.max == 1) {
    const uint32_t choice = NewNode(AutomatonNode::Kind::kChoice);
    const uint32_t body = Build(expr.parts[0], next);
    draft_.nodes[choice].edges = {{0, 0, Counter::kReset, body}, {0, 0, Counter::kReset, next}};
    return choice;
  }
  Body body;
  int parts = kMaxBodyParts;
  SplitBody(expr.parts[0], 0, &parts, &body);
  CodePointSet chars = body.chars.Intersect(writable_);
  const uint32_t repeat = NewNode(AutomatonNode::Kind::kRepeat);
  if (!chars.empty()) {
    AddChars(repeat, chars, Counter::kAdd, repeat);
    draft_.nodes[repeat].node.set = static_cast<uint32_t>(draft_.sets.size());
    draft_.sets.push_back(std::move(chars));
  }
  uint32_t rule = kNoRule;
  if (!body.others.empty()) {
    const size_t opened_before = opened_.size();
    opened_.insert(opened_.end(), body.opened.begin(), body.opened.end());
    rule = NewRule(owner_);
    const uint32_t end = NewNode(AutomatonNode::Kind::kEnd);
    const uint32_t choice = NewNode(AutomatonNode::Kind::kChoice);
    for (const uint32_t other : body.others) {
      const uint32_t target = Build(other, end);
      draft_.nodes[choice].edges.push_back({0, 0, Counter::kReset, target});
    }
    draft_.starts[rule] = choice;
    opened_.resize(opened_before);
  }
  AutomatonNode& node = draft_.nodes[repeat].node;
  node.rule = rule;
  node.next = next;
  node.min = expr.min;
  node.max = expr.max;
  return repeat;
}

bool AutomatonBuilder::MayOpen(uint32_t rule) const {
  return opened_.size() < kMaxOpened && std::find(opened_.begin(), opened_.end(), rule) == opened_.end();
}

void AutomatonBuilder::SplitBody(uint32_t expr_id, int depth, int* parts, Body* body) const {
  const GrammarExpr& expr = grammar_.exprs[expr_id];
  const bool may_open = depth < kMaxBodyDepth && --*parts > 0;
  if (expr.kind == GrammarExpr::Kind::kChars) {
    body->chars = body->chars.Union(grammar_.sets[expr.index]);
  } else if (expr.kind == GrammarExpr::Kind::kRule && may_open && MayOpen(expr.index)) {
    body->opened.push_back(expr.index);
    SplitBody(grammar_.rules[expr.index].body, depth + 1, parts, body);
  } else if (expr.kind == GrammarExpr::Kind::kAlternatives && may_open &&
             expr.parts.size() <= kMaxBodyParts) {
    for (const uint32_t part : expr.parts) SplitBody(part, depth + 1, parts, body);
  } else {
    body->others.push_back(expr_id);
  }
}

bool AutomatonBuilder::CanWrite(std::string_view literal) {
  while (!literal.empty()) {
    const Utf8Step step = NextUtf8(literal);
    if (!writable_.Contains(step.code_point)) {
      draft_.unwritable = absl::StrFormat("U+%04X", uint32_t{step.code_point});
      return false;
    }
    literal.remove_prefix(static_cast<size_t>(step.bytes));
  }
  return true;
}

void AutomatonBuilder::AddLiteral(uint32_t from, std::string_view literal, uint32_t next) {
  if (CanWrite(literal)) AddBytes(from, literal, next);
}

void AutomatonBuilder::AddBytes(uint32_t from, std::string_view bytes, uint32_t next) {
  for (size_t i = 0; i + 1 < bytes.size(); ++i) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    uint32_t child = kNoNode;
    for (const AutomatonEdge& edge : draft_.nodes[from].edges) {
      if (edge.first == byte && edge.target != next) child = edge.target;
    }
    if (child == kNoNode) {
      child = NewNode(AutomatonNode::Kind::kBytes);
      draft_.nodes[from].edges.push_back({byte, byte, Counter::kReset, child});
    }
    from = child;
  }
  const auto byte = static_cast<uint8_t>(bytes.back());
  draft_.nodes[from].edges.push_back({byte, byte, Counter::kReset, next});
}

void AutomatonBuilder::AddChars(uint32_t from, const CodePointSet& chars, Counter counter, uint32_t next) {
  // Characters that end alike share the nodes of their last bytes.
  std::map<ByteRanges, uint32_t> by_suffix;
  for (const CodePointRange& range : chars.ranges()) {
    SplitUtf8(range.first, range.last, [&](const ByteRanges& ranges) {
      uint32_t target = next;
      for (size_t i = ranges.size(); i-- > 1;) {
        const ByteRanges suffix(ranges.begin() + static_cast<std::ptrdiff_t>(i), ranges.end());
        const auto [it, is_new] = by_suffix.try_emplace(suffix, kNoNode);
        if (is_new) {
          it->second = NewNode(AutomatonNode::Kind::kBytes);
          draft_.nodes[it->second].edges.push_back(
              {ranges[i].first, ranges[i].last, i + 1 == ranges.size() ? counter : Counter::kKeep, target});
        }
        target = it->second;
      }
      draft_.nodes[from].edges.push_back(
          {ranges[0].first, ranges[0].last, ranges.size() == 1 ? counter : Counter::kKeep, target});
    });
  }
}

}  // namespace moepool
