// The language in which a constraint is written: EBNF in the manner of GBNF, over Unicode code points.
//
//   root   ::= greeting (", " name)* "."     # a comment; the text as a whole is a `root`
//   name   ::= [A-Z] [a-z\u00E9]{1,20}       # classes, ranges, counts: {m}, {m,}, {m,n}, {,n}
//   greeting ::= "Hello" | "Good " ("morning" | "evening") | [^\x00-\x1F"]+ | .
//   call     ::= @"[ARGS]" "{}"              # a control token by its name
//
// A vocabulary without a control token of that name has the name's letters in its place. Literals and classes
// know \n \r \t \\ \" \[ \] \- \^ and \xNN, \uNNNN, \UNNNNNNNN, which are code points. A dot is any
// character. A rule goes on until the next name that `::=` follows; alternatives may be empty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/constrain/code_points.h"

namespace moepool {

inline constexpr size_t kMaxGrammarBytes = 1 << 20;
inline constexpr size_t kMaxGrammarRules = 20'000;
inline constexpr size_t kMaxGrammarExpressions = 200'000;
inline constexpr int kMaxGrammarDepth = 64;  // of parentheses
inline constexpr int32_t kMaxGrammarCount = 1 << 30;

// An expression of a grammar. Which fields count depends on the kind.
struct GrammarExpr {
  enum class Kind : uint8_t { kChars, kLiteral, kToken, kRule, kSequence, kAlternatives, kRepeat };
  Kind kind = Kind::kSequence;
  uint32_t index = 0;           // of Grammar::sets, literals (a token's name too) or rules
  std::vector<uint32_t> parts;  // of Grammar::exprs: of a sequence, alternatives, or the one that is repeated
  int32_t min = 0;
  int32_t max = -1;  // -1: no bound
};

struct GrammarRule {
  std::string name;
  uint32_t body = 0;  // of Grammar::exprs
  int line = 0;       // of its definition, from 1
  int column = 0;
};

struct Grammar {
  std::vector<GrammarExpr> exprs;
  std::vector<CodePointSet> sets;
  std::vector<std::string> literals;  // valid UTF-8
  std::vector<GrammarRule> rules;
  uint32_t root = 0;  // of rules
};

// InvalidArgument names line and column of what is wrong, or the limit that is exceeded.
absl::StatusOr<Grammar> ParseGrammar(std::string_view text);

// How a control token appears among the bytes of a text: by bytes that no UTF-8 has.
std::string ControlTokenBytes(std::string_view name);

// `text` as a literal of the language, quotes included. `text` is UTF-8.
std::string GrammarLiteral(std::string_view text);
// `set` as a class of the language, brackets included.
std::string GrammarClass(const CodePointSet& set);

}  // namespace moepool
