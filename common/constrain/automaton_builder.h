// From the expressions of a grammar to nodes, before anything is pruned.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/constrain/automaton.h"

namespace moepool {

// Nodes with edge lists of their own, as they are while they grow.
struct DraftNode {
  AutomatonNode node;
  std::vector<AutomatonEdge> edges;
};

struct DraftAutomaton {
  std::vector<DraftNode> nodes;
  std::vector<uint32_t> starts;  // by rule; those that bodies of repetitions became come last
  std::vector<uint32_t> owners;  // by rule: the grammar's rule that it is part of
  std::vector<CodePointSet> sets;
  std::string unwritable;  // a character that was dropped, or empty
};

class AutomatonBuilder {
 public:
  AutomatonBuilder(const Grammar& grammar, const CodePointSet& writable, const ControlTokens& control_tokens)
      : grammar_(grammar), writable_(writable), control_tokens_(control_tokens) {}
  // InvalidArgument where the nodes are too many.
  absl::Status Build();
  DraftAutomaton Take() { return std::move(draft_); }

 private:
  using Counter = AutomatonEdge::Counter;

  uint32_t NewNode(AutomatonNode::Kind kind);
  uint32_t NewRule(uint32_t owner);
  // Where `expr` begins if `next` follows it.
  uint32_t Build(uint32_t expr, uint32_t next);
  uint32_t BuildChoice(const GrammarExpr& expr, uint32_t next);
  uint32_t BuildRepeat(const GrammarExpr& expr, uint32_t next);
  // A repetition's body, split into characters and the rest.
  struct Body {
    CodePointSet chars;
    std::vector<uint32_t> others;
    std::vector<uint32_t> opened;  // rules of which the body stands in the place of the name
  };
  // Opens at most `parts` names and alternatives, and no name that stands within its own body.
  void SplitBody(uint32_t expr, int depth, int* parts, Body* body) const;
  bool MayOpen(uint32_t rule) const;
  void AddLiteral(uint32_t from, std::string_view literal, uint32_t next);
  void AddBytes(uint32_t from, std::string_view bytes, uint32_t next);
  void AddChars(uint32_t from, const CodePointSet& chars, Counter counter, uint32_t next);
  bool CanWrite(std::string_view literal);

  const Grammar& grammar_;
  const CodePointSet& writable_;
  const ControlTokens& control_tokens_;
  DraftAutomaton draft_;
  uint32_t owner_ = 0;
  std::vector<uint32_t> opened_;  // by the repetitions that are being built
  bool full_ = false;
};

}  // namespace moepool
