// A grammar as a pushdown automaton over bytes: what the matcher runs. Characters become the bytes of their
// UTF-8, so that a token may end inside one.
//
// A place in a rule is a node. Counted repetitions are nodes with a counter instead of copies, and
// alternatives that are literals share their beginnings, so that an enum of ten thousand strings is a tree.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "common/constrain/code_points.h"
#include "common/constrain/grammar.h"

namespace moepool {

inline constexpr uint32_t kNoNode = 0xFFFFFFFF;
inline constexpr uint32_t kNoRule = 0xFFFFFFFF;
inline constexpr uint32_t kNoSet = 0xFFFFFFFF;
inline constexpr size_t kMaxAutomatonNodes = 1 << 20;

using ControlTokens = absl::flat_hash_set<std::string>;

struct AutomatonEdge {
  enum class Counter : uint8_t { kReset, kKeep, kAdd };
  uint8_t first;
  uint8_t last;
  Counter counter;  // what becomes of the place's counter
  uint32_t target;
};

struct AutomatonNode {
  enum class Kind : uint8_t {
    kBytes,   // one of the edges
    kCall,    // `rule`, then `next`
    kChoice,  // one of the edges' targets; no byte is read
    kRepeat,  // again by one of the edges, or by `rule`, while counter < max; `next` where counter >= min
    kEnd,     // of the rule
  };
  Kind kind = Kind::kBytes;
  uint32_t first_edge = 0;
  uint32_t edges = 0;
  uint32_t rule = kNoRule;
  uint32_t next = kNoNode;
  int32_t min = 0;
  int32_t max = -1;       // -1: no bound; the counter then stops at min
  uint32_t set = kNoSet;  // of a kRepeat: the characters that its edges read, of Automaton::sets
};

struct AutomatonRule {
  uint32_t start = kNoNode;
  bool nullable = false;
  // A rule that can call another before it has read a byte stands before it.
  uint32_t rank = 0;
};

struct Automaton {
  std::vector<AutomatonNode> nodes;
  std::vector<AutomatonEdge> edges;
  std::vector<AutomatonRule> rules;
  std::vector<CodePointSet> sets;
  uint32_t root = 0;                      // of rules
  std::array<uint8_t, 256> byte_class{};  // bytes of one class are alike everywhere
  std::vector<uint8_t> class_byte;        // one byte of each class
};

// `writable`: the characters that the vocabulary can write; others are taken out of classes, and alternatives
// that need them are dropped. `control_tokens`: names of those that it has. From each place that is left, an
// end can be reached. InvalidArgument names a rule that is left-recursive, or says why nothing is left, or
// which limit is exceeded.
absl::StatusOr<Automaton> BuildAutomaton(const Grammar& grammar, const CodePointSet& writable,
                                         const ControlTokens& control_tokens);

}  // namespace moepool
