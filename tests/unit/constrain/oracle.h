// An independent reading of a grammar, by derivatives over whole characters: slow, and simple enough to
// trust. It knows no bytes, automata or caches: what stands before a text is a set of lists of expressions to
// come.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/utf8.h"
#include "common/constrain/grammar.h"

namespace moepool {

class Oracle {
 public:
  explicit Oracle(const Grammar* grammar) : grammar_(grammar), states_(Start()) {}

  // Whether some text of the grammar begins with what was pushed and `bytes`, which may end inside a
  // character.
  bool IsPrefix(std::string_view bytes) {
    std::string rest = pending_;
    rest += bytes;
    States states = states_;
    return Read(&rest, &states);
  }
  void Push(std::string_view bytes) {
    pending_ += bytes;
    Read(&pending_, &states_);
  }
  // How many ways there are to go on: many take too long to try.
  size_t ways() const { return states_.size(); }
  // Whether what was pushed is a text of the grammar.
  bool IsText() const { return pending_.empty() && states_.contains({}); }

 private:
  // What is to come, the next last. A thing is an expression, or the rest of a literal, or of a repetition.
  struct Thing {
    uint32_t expr;
    int64_t done = 0;  // bytes of the literal, rounds of the repetition
    auto operator<=>(const Thing&) const = default;
  };
  using State = std::vector<Thing>;
  using States = std::set<State>;  // closed: each is empty or ends with a literal or a class

  // Reads whole characters off `rest`. False where nothing can go on with it.
  bool Read(std::string* rest, States* states) {
    while (!rest->empty() && !states->empty()) {
      const Utf8Step step = NextUtf8(*rest);
      if (step.kind == Utf8Kind::kInvalid) return false;
      if (step.kind == Utf8Kind::kIncomplete) return Intersects(Next(*states), Completions(*rest));
      *states = Derive(*states, step.code_point);
      rest->erase(0, static_cast<size_t>(step.bytes));
    }
    return !states->empty();
  }

  States Start() {
    States states;
    Close({{grammar_->rules[grammar_->root].body}}, &states);
    return states;
  }

  void Close(State state, States* out) {
    if (state.empty()) {
      out->insert(state);
      return;
    }
    const Thing thing = state.back();
    state.pop_back();
    for (const State& inner : Expand(thing)) {
      if (inner.empty()) {
        Close(state, out);
        continue;
      }
      State whole = state;
      whole.insert(whole.end(), inner.begin(), inner.end());
      out->insert(std::move(whole));
    }
  }

  // What `thing` can begin with, and what of it then is to come.
  const States& Expand(const Thing& thing) {
    if (const auto it = known_.find(thing); it != known_.end()) return it->second;
    const GrammarExpr& expr = grammar_->exprs[thing.expr];
    using Kind = GrammarExpr::Kind;
    States states;
    if (expr.kind == Kind::kChars) {
      states.insert({thing});
    } else if (expr.kind == Kind::kLiteral) {
      const auto size = static_cast<int64_t>(grammar_->literals[expr.index].size());
      states.insert(thing.done < size ? State{thing} : State{});
    } else if (expr.kind == Kind::kRule) {
      Close({{grammar_->rules[expr.index].body}}, &states);
    } else if (expr.kind == Kind::kSequence) {
      State parts;
      for (auto part = expr.parts.rbegin(); part != expr.parts.rend(); ++part) parts.push_back({*part});
      Close(parts, &states);
    } else if (expr.kind == Kind::kAlternatives) {
      for (const uint32_t part : expr.parts) Close({{part}}, &states);
    } else {
      const States body = Expand({expr.parts[0]});
      // A round that reads nothing is worth nothing but towards the least number.
      if (thing.done >= expr.min || body.contains({})) states.insert(State{});
      const bool more = expr.max < 0 || thing.done < expr.max;
      const int64_t done = expr.max < 0 ? std::min<int64_t>(thing.done + 1, expr.min) : thing.done + 1;
      for (const State& one : body) {
        if (one.empty() || !more) continue;
        State whole = {{thing.expr, done}};
        whole.insert(whole.end(), one.begin(), one.end());
        states.insert(std::move(whole));
      }
    }
    return known_.emplace(thing, std::move(states)).first->second;
  }

  States Derive(const States& states, char32_t c) {
    States next;
    for (const State& state : states) {
      if (state.empty()) continue;
      const GrammarExpr& expr = grammar_->exprs[state.back().expr];
      State rest = state;
      if (expr.kind == GrammarExpr::Kind::kChars) {
        if (!grammar_->sets[expr.index].Contains(c)) continue;
        rest.pop_back();
      } else {
        const Utf8Step step = Rest(state.back());
        if (step.code_point != c) continue;
        rest.back().done += step.bytes;
      }
      Close(std::move(rest), &next);
    }
    return next;
  }

  Utf8Step Rest(const Thing& thing) {
    const std::string_view literal = grammar_->literals[grammar_->exprs[thing.expr].index];
    return NextUtf8(literal.substr(static_cast<size_t>(thing.done)));
  }

  CodePointSet Next(const States& states) {
    CodePointSet set;
    for (const State& state : states) {
      if (state.empty()) continue;
      const GrammarExpr& expr = grammar_->exprs[state.back().expr];
      if (expr.kind == GrammarExpr::Kind::kChars) {
        set = set.Union(grammar_->sets[expr.index]);
      } else {
        const char32_t c = Rest(state.back()).code_point;
        set = set.Union(CodePointSet({{c, c}}));
      }
    }
    return set;
  }

  // The characters whose encoding begins with `bytes`, which are not a whole one: by trying all.
  static const CodePointSet& Completions(std::string_view bytes) {
    static auto* const known = new std::map<std::string, CodePointSet, std::less<>>;
    if (const auto it = known->find(bytes); it != known->end()) return it->second;
    std::vector<CodePointRange> ranges;
    for (char32_t c = 0x80; c <= kLastCodePoint; c += 64) {  // those that differ in the last byte alone
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      std::string utf8;
      AppendUtf8(c, &utf8);
      if (utf8.starts_with(bytes)) ranges.push_back({c, c + 63});
    }
    return known->emplace(bytes, CodePointSet(std::move(ranges))).first->second;
  }
  static bool Intersects(const CodePointSet& a, const CodePointSet& b) { return !a.Intersect(b).empty(); }

  const Grammar* grammar_;
  std::map<Thing, States> known_;
  States states_;
  std::string pending_;  // of a character
};

}  // namespace moepool
