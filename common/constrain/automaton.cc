// What is done with a draft: which rules may be empty, which places lead to an end, in which order rules call
// one another, and the classes of bytes.
#include "common/constrain/automaton.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/constrain/automaton_builder.h"

namespace moepool {
namespace {

using Kind = AutomatonNode::Kind;

class Analysis {
 public:
  Analysis(const Grammar& grammar, DraftAutomaton draft) : grammar_(grammar), draft_(std::move(draft)) {}

  absl::StatusOr<Automaton> Run() {
    FindUsers();
    nullable_ = Spread([this](uint32_t n, const auto& known) { return IsNullable(n, known); });
    MOEPOOL_RETURN_IF_ERROR(OrderRules());
    productive_ = Spread([this](uint32_t n, const auto& known) { return IsProductive(n, known); });
    if (!productive_[draft_.starts[grammar_.root]]) return NothingLeft();
    return Flatten();
  }

 private:
  // By node: those whose properties follow from it, in one list cut into pieces.
  void FindUsers() {
    std::vector<std::pair<uint32_t, uint32_t>> pairs;  // (node, user)
    for (uint32_t n = 0; n < draft_.nodes.size(); ++n) {
      const DraftNode& draft = draft_.nodes[n];
      for (const AutomatonEdge& edge : draft.edges) pairs.emplace_back(edge.target, n);
      if (draft.node.next != kNoNode) pairs.emplace_back(draft.node.next, n);
      if (draft.node.rule != kNoRule) pairs.emplace_back(draft_.starts[draft.node.rule], n);
    }
    std::sort(pairs.begin(), pairs.end());
    first_user_.assign(draft_.nodes.size() + 1, 0);
    for (const auto& [node, user] : pairs) {
      ++first_user_[node + 1];
      users_.push_back(user);
    }
    for (size_t n = 1; n < first_user_.size(); ++n) first_user_[n] += first_user_[n - 1];
  }

  // The least set of nodes for which `holds` is true given the set itself.
  template <typename Holds>
  std::vector<bool> Spread(const Holds& holds) const {
    std::vector<bool> known(draft_.nodes.size());
    std::vector<uint32_t> work;
    const auto look = [&](uint32_t n) {
      if (known[n] || !holds(n, known)) return;
      known[n] = true;
      work.push_back(n);
    };
    for (uint32_t n = 0; n < draft_.nodes.size(); ++n) look(n);
    while (!work.empty()) {
      const uint32_t n = work.back();
      work.pop_back();
      for (uint32_t u = first_user_[n]; u < first_user_[n + 1]; ++u) look(users_[u]);
    }
    return known;
  }

  static bool AnyTarget(const DraftNode& draft, const std::vector<bool>& known) {
    return std::any_of(draft.edges.begin(), draft.edges.end(),
                       [&](const AutomatonEdge& edge) { return known[edge.target]; });
  }

  // Whether the rule's end can be reached from the node without a byte.
  bool IsNullable(uint32_t n, const std::vector<bool>& known) const {
    const DraftNode& draft = draft_.nodes[n];
    const auto body = [&] { return draft.node.rule != kNoRule && known[draft_.starts[draft.node.rule]]; };
    switch (draft.node.kind) {
      case Kind::kBytes:
        return false;
      case Kind::kEnd:
        return true;
      case Kind::kChoice:
        return AnyTarget(draft, known);
      case Kind::kCall:
        return body() && known[draft.node.next];
      case Kind::kRepeat:
        return (draft.node.min == 0 || body()) && known[draft.node.next];
    }
    return false;
  }

  // Whether the rule's end can be reached from the node at all.
  bool IsProductive(uint32_t n, const std::vector<bool>& known) const {
    const DraftNode& draft = draft_.nodes[n];
    const auto body = [&] { return draft.node.rule != kNoRule && known[draft_.starts[draft.node.rule]]; };
    switch (draft.node.kind) {
      case Kind::kBytes:
      case Kind::kChoice:
        return AnyTarget(draft, known);
      case Kind::kEnd:
        return true;
      case Kind::kCall:
        return body() && known[draft.node.next];
      case Kind::kRepeat:  // its edges lead back to it
        return (draft.node.min == 0 || draft.node.set != kNoSet || body()) && known[draft.node.next];
    }
    return false;
  }

  // Calls visit(rule) for what `rule` can call before it has read a byte.
  template <typename Visit>
  void VisitLeftCalls(uint32_t rule, const Visit& visit) const {
    std::vector<uint32_t> work = {draft_.starts[rule]};
    absl::flat_hash_set<uint32_t> seen;  // nodes of the rule can be reached in many ways
    while (!work.empty()) {
      const uint32_t n = work.back();
      work.pop_back();
      if (!seen.insert(n).second) continue;
      const DraftNode& draft = draft_.nodes[n];
      const AutomatonNode& node = draft.node;
      if (node.kind == Kind::kChoice) {
        for (const AutomatonEdge& edge : draft.edges) work.push_back(edge.target);
        continue;
      }
      if (node.rule == kNoRule && node.kind != Kind::kRepeat) continue;
      const bool empty_body = node.rule != kNoRule && nullable_[draft_.starts[node.rule]];
      if (node.rule != kNoRule) visit(node.rule);
      if (empty_body || (node.kind == Kind::kRepeat && node.min == 0)) work.push_back(node.next);
    }
  }

  // Depth first, without recursion; an edge back into the path is left recursion.
  absl::Status OrderRules() {
    enum class Mark : uint8_t { kNew, kOnPath, kDone };
    std::vector<Mark> marks(draft_.starts.size(), Mark::kNew);
    ranks_.assign(draft_.starts.size(), 0);
    uint32_t next_rank = static_cast<uint32_t>(draft_.starts.size());
    struct Frame {
      uint32_t rule;
      std::vector<uint32_t> calls;
    };
    std::vector<Frame> path;
    const auto enter = [&](uint32_t rule) {
      marks[rule] = Mark::kOnPath;
      Frame& frame = path.emplace_back(Frame{rule, {}});
      VisitLeftCalls(rule, [&](uint32_t called) { frame.calls.push_back(called); });
      std::sort(frame.calls.begin(), frame.calls.end());
      frame.calls.erase(std::unique(frame.calls.begin(), frame.calls.end()), frame.calls.end());
    };
    for (uint32_t root = 0; root < draft_.starts.size(); ++root) {
      if (marks[root] != Mark::kNew) continue;
      enter(root);
      while (!path.empty()) {
        if (path.back().calls.empty()) {
          ranks_[path.back().rule] = --next_rank;
          marks[path.back().rule] = Mark::kDone;
          path.pop_back();
          continue;
        }
        const uint32_t called = path.back().calls.back();
        path.back().calls.pop_back();
        if (marks[called] == Mark::kOnPath) return LeftRecursion(called);
        if (marks[called] == Mark::kNew) enter(called);
      }
    }
    return absl::OkStatus();
  }

  absl::Status LeftRecursion(uint32_t rule) const {
    const GrammarRule& owner = grammar_.rules[draft_.owners[rule]];
    return absl::InvalidArgumentError(StrCat("grammar line ", owner.line, " column ", owner.column, ": rule ",
                                             owner.name,
                                             " is left-recursive: it can come to itself before a character"));
  }

  absl::Status NothingLeft() const {
    if (!draft_.unwritable.empty()) {
      return absl::InvalidArgumentError(StrCat(
          "the grammar needs characters that the vocabulary has no tokens for, such as ", draft_.unwritable));
    }
    return absl::InvalidArgumentError(
        "the grammar has no text that ends: each way through root goes on for ever");
  }

  // Leaves out what leads nowhere.
  Automaton Flatten() {
    Automaton out;
    out.root = grammar_.root;
    out.sets = std::move(draft_.sets);
    for (size_t rule = 0; rule < draft_.starts.size(); ++rule) {
      const uint32_t start = draft_.starts[rule];
      out.rules.push_back({productive_[start] ? start : kNoNode, nullable_[start], ranks_[rule]});
    }
    std::array<bool, 257> begins_class{};
    begins_class[0] = true;
    for (uint32_t n = 0; n < draft_.nodes.size(); ++n) {
      DraftNode& draft = draft_.nodes[n];
      AutomatonNode node = draft.node;
      node.first_edge = static_cast<uint32_t>(out.edges.size());
      for (const AutomatonEdge& edge : draft.edges) {
        if (!productive_[n] || !productive_[edge.target]) continue;
        out.edges.push_back(edge);
        if (node.kind == Kind::kChoice) continue;
        begins_class[edge.first] = true;
        begins_class[size_t{edge.last} + 1] = true;
      }
      node.edges = static_cast<uint32_t>(out.edges.size()) - node.first_edge;
      if (node.kind == Kind::kRepeat && node.rule != kNoRule) {
        if (nullable_[draft_.starts[node.rule]]) node.min = 0;  // the rest may be empty
        if (!productive_[draft_.starts[node.rule]]) node.rule = kNoRule;
      }
      out.nodes.push_back(node);
      draft.edges = {};
    }
    int classes = -1;
    for (size_t byte = 0; byte < 256; ++byte) {
      if (begins_class[byte]) {
        ++classes;
        out.class_byte.push_back(static_cast<uint8_t>(byte));
      }
      out.byte_class[byte] = static_cast<uint8_t>(classes);
    }
    return out;
  }

  const Grammar& grammar_;
  DraftAutomaton draft_;
  std::vector<uint32_t> first_user_;  // by node: where its users begin
  std::vector<uint32_t> users_;
  std::vector<bool> nullable_;    // by node
  std::vector<bool> productive_;  // by node
  std::vector<uint32_t> ranks_;   // by rule
};

}  // namespace

absl::StatusOr<Automaton> BuildAutomaton(const Grammar& grammar, const CodePointSet& writable,
                                         const ControlTokens& control_tokens) {
  AutomatonBuilder builder(grammar, writable, control_tokens);
  MOEPOOL_RETURN_IF_ERROR(builder.Build());
  return Analysis(grammar, builder.Take()).Run();
}

}  // namespace moepool
