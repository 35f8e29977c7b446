// The parser of grammar.h's language: recursive descent, whose depth is that of parentheses.
#include "common/constrain/grammar.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/utf8.h"

namespace moepool {
namespace {

constexpr std::string_view kDefines = "::=";
constexpr int kMaxQuantifiers = 8;  // in a row: each is a level of nesting

bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsNamePart(char c) { return IsNameStart(c) || (c >= '0' && c <= '9') || c == '-'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

int HexValue(char c) {
  if (IsDigit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

class GrammarParser {
 public:
  explicit GrammarParser(std::string_view text) : text_(text) {}

  absl::StatusOr<Grammar> Parse() {
    if (text_.size() > kMaxGrammarBytes) {
      return absl::InvalidArgumentError(
          StrCat("the grammar has ", text_.size(), " bytes, at most ", kMaxGrammarBytes, " are possible"));
    }
    if (const size_t valid = ValidUtf8Prefix(text_); valid < text_.size()) {
      return ErrorAt(valid, "is not UTF-8");
    }
    SkipSpace();
    while (!AtEnd()) MOEPOOL_RETURN_IF_ERROR(ParseRule());
    return Finish();
  }

 private:
  bool AtEnd() const { return at_ == text_.size(); }
  char Peek() const { return AtEnd() ? '\0' : text_[at_]; }
  bool Take(char c) {
    if (AtEnd() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void SkipSpace() {
    while (!AtEnd()) {
      if (const char c = text_[at_]; c == ' ' || c == '\t' || c == '\n' || c == '\r') {
        ++at_;
      } else if (c == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else {
        return;
      }
    }
  }

  // Positions only grow but for that of an error, so that all of them together cost one pass.
  void Locate(size_t at, int* line, int* column) {
    if (at < located_) located_ = line_start_ = 0, line_ = 1;
    for (; located_ < at; ++located_) {
      if (text_[located_] != '\n') continue;
      ++line_;
      line_start_ = located_ + 1;
    }
    *line = line_;
    const std::string_view before = text_.substr(line_start_, at - line_start_);
    *column = 1 + static_cast<int>(
                      std::count_if(before.begin(), before.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  }
  absl::Status ErrorAt(size_t at, std::string_view what) {
    int line = 0;
    int column = 0;
    Locate(at, &line, &column);
    return absl::InvalidArgumentError(StrCat("grammar line ", line, " column ", column, ": ", what));
  }
  absl::Status Error(std::string_view what) { return ErrorAt(at_, what); }

  std::string_view TakeName() {
    const size_t begin = at_;
    if (IsNameStart(Peek())) {
      while (!AtEnd() && IsNamePart(text_[at_])) ++at_;
    }
    return text_.substr(begin, at_ - begin);
  }

  // Whether a name and "::=" follow, which is where another rule begins.
  bool AtRule() {
    const size_t begin = at_;
    const bool named = !TakeName().empty();
    SkipSpace();
    const bool defines = named && text_.substr(at_).starts_with(kDefines);
    at_ = begin;
    return defines;
  }

  uint32_t RuleIndex(std::string_view name) {
    const auto [it, is_new] = rule_by_name_.try_emplace(name, static_cast<uint32_t>(grammar_.rules.size()));
    if (is_new) {
      grammar_.rules.push_back({std::string(name), kUndefined, 0, 0});
      first_use_.push_back(at_);
    }
    return it->second;
  }

  absl::StatusOr<uint32_t> AddExpr(GrammarExpr expr) {
    if (grammar_.exprs.size() == kMaxGrammarExpressions) {
      return Error(StrCat("the grammar has more than ", kMaxGrammarExpressions, " expressions"));
    }
    grammar_.exprs.push_back(std::move(expr));
    return static_cast<uint32_t>(grammar_.exprs.size() - 1);
  }

  absl::Status ParseRule() {
    const size_t begin = at_;
    const std::string_view name = TakeName();
    if (name.empty()) return Error("expected the name of a rule");
    SkipSpace();
    if (!text_.substr(at_).starts_with(kDefines)) return Error(StrCat("expected ::= after ", name));
    at_ += kDefines.size();
    const uint32_t rule = RuleIndex(name);
    if (grammar_.rules.size() > kMaxGrammarRules) {
      return Error(StrCat("the grammar has more than ", kMaxGrammarRules, " rules"));
    }
    if (grammar_.rules[rule].body != kUndefined) {
      return ErrorAt(begin, StrCat("rule ", name, " is defined twice"));
    }
    int line = 0;
    int column = 0;
    Locate(begin, &line, &column);
    MOEPOOL_ASSIGN_OR_RETURN(const uint32_t body, ParseAlternatives(/*depth=*/0));
    GrammarRule& defined = grammar_.rules[rule];
    defined.body = body;
    defined.line = line;
    defined.column = column;
    if (!AtEnd() && !AtRule()) return Error("expected an expression, | or a rule");
    return absl::OkStatus();
  }

  absl::StatusOr<uint32_t> ParseAlternatives(int depth) {
    GrammarExpr choice;
    choice.kind = GrammarExpr::Kind::kAlternatives;
    do {
      MOEPOOL_ASSIGN_OR_RETURN(const uint32_t part, ParseSequence(depth));
      choice.parts.push_back(part);
    } while (Take('|'));
    if (choice.parts.size() == 1) return choice.parts[0];
    return AddExpr(std::move(choice));
  }

  absl::StatusOr<uint32_t> ParseSequence(int depth) {
    GrammarExpr sequence;
    for (SkipSpace(); !AtEnd() && Peek() != '|' && Peek() != ')' && !AtRule(); SkipSpace()) {
      MOEPOOL_ASSIGN_OR_RETURN(uint32_t item, ParseItem(depth));
      MOEPOOL_ASSIGN_OR_RETURN(item, ParseQuantifiers(item));
      sequence.parts.push_back(item);
    }
    if (sequence.parts.size() == 1) return sequence.parts[0];
    return AddExpr(std::move(sequence));
  }

  absl::StatusOr<uint32_t> ParseItem(int depth) {
    if (IsNameStart(Peek())) {
      GrammarExpr use;
      use.kind = GrammarExpr::Kind::kRule;
      use.index = RuleIndex(TakeName());
      return AddExpr(std::move(use));
    }
    if (Take('@')) {
      if (!Take('"')) return Error("expected \" and the name of a token after @");
      return ParseLiteral(GrammarExpr::Kind::kToken);
    }
    if (Take('"')) return ParseLiteral(GrammarExpr::Kind::kLiteral);
    if (Take('[')) return ParseClass();
    if (Take('.')) return AddSet(CodePointSet::All());
    if (!Take('(')) return Error("expected a literal, a class, a token, a name or (");
    if (depth == kMaxGrammarDepth) {
      return Error(StrCat("parentheses are nested more than ", kMaxGrammarDepth, " deep"));
    }
    MOEPOOL_ASSIGN_OR_RETURN(const uint32_t inner, ParseAlternatives(depth + 1));
    if (!Take(')')) return Error("expected )");
    return inner;
  }

  absl::StatusOr<uint32_t> AddSet(CodePointSet set) {
    GrammarExpr chars;
    chars.kind = GrammarExpr::Kind::kChars;
    chars.index = static_cast<uint32_t>(grammar_.sets.size());
    grammar_.sets.push_back(std::move(set));
    return AddExpr(std::move(chars));
  }

  // The code point at `at_`, written out or as an escape.
  absl::StatusOr<char32_t> TakeCodePoint() {
    if (AtEnd()) return Error("expected a character before the grammar ends");
    if (!Take('\\')) {
      const Utf8Step step = NextUtf8(text_.substr(at_));
      at_ += static_cast<size_t>(step.bytes);
      return step.code_point;
    }
    const char escape = Peek();
    if (AtEnd()) return Error("expected a character after the backslash");
    ++at_;
    switch (escape) {
      case 'n':
        return U'\n';
      case 'r':
        return U'\r';
      case 't':
        return U'\t';
      case 'x':
        return TakeHex(2);
      case 'u':
        return TakeHex(4);
      case 'U':
        return TakeHex(8);
      case '\\':
      case '"':
      case '[':
      case ']':
      case '-':
      case '^':
        return static_cast<char32_t>(escape);
      default:
        return ErrorAt(at_ - 1, "is no escape: \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\^ \\x \\u \\U are");
    }
  }

  absl::StatusOr<char32_t> TakeHex(int digits) {
    uint64_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const int digit = HexValue(Peek());
      if (digit < 0) return Error(StrCat("expected ", digits, " hexadecimal digits"));
      value = value * 16 + static_cast<uint64_t>(digit);
      ++at_;
    }
    if (value > kLastCodePoint || (value >= 0xD800 && value <= 0xDFFF)) {
      return Error(absl::StrFormat("U+%04X is not a character", value));
    }
    return static_cast<char32_t>(value);
  }

  absl::StatusOr<uint32_t> ParseLiteral(GrammarExpr::Kind kind) {
    GrammarExpr literal;
    literal.kind = kind;
    literal.index = static_cast<uint32_t>(grammar_.literals.size());
    std::string value;
    while (!Take('"')) {
      if (AtEnd() || Peek() == '\n') return Error("expected \" before the line ends");
      MOEPOOL_ASSIGN_OR_RETURN(const char32_t c, TakeCodePoint());
      AppendUtf8(c, &value);
    }
    if (kind == GrammarExpr::Kind::kToken && value.empty()) return Error("a token has no name");
    grammar_.literals.push_back(std::move(value));
    return AddExpr(std::move(literal));
  }

  absl::StatusOr<uint32_t> ParseClass() {
    const bool negated = Take('^');
    std::vector<CodePointRange> ranges;
    while (!Take(']')) {
      if (AtEnd() || Peek() == '\n') return Error("expected ] before the line ends");
      MOEPOOL_ASSIGN_OR_RETURN(const char32_t first, TakeCodePoint());
      char32_t last = first;
      if (Peek() == '-' && text_.substr(at_ + 1, 1) != "]") {
        ++at_;
        MOEPOOL_ASSIGN_OR_RETURN(last, TakeCodePoint());
        if (last < first) {
          return Error(
              absl::StrFormat("the range goes from U+%04X down to U+%04X", uint32_t{first}, uint32_t{last}));
        }
      }
      ranges.push_back({first, last});
    }
    CodePointSet set(std::move(ranges));
    return AddSet(negated ? set.Complement() : std::move(set));
  }

  absl::StatusOr<int32_t> TakeCount() {
    int64_t value = 0;
    if (!IsDigit(Peek())) return Error("expected a number");
    while (IsDigit(Peek())) {
      value = value * 10 + (text_[at_++] - '0');
      if (value > kMaxGrammarCount) return Error(StrCat("a count is more than ", kMaxGrammarCount));
    }
    return static_cast<int32_t>(value);
  }

  absl::StatusOr<uint32_t> ParseQuantifiers(uint32_t item) {
    for (int count = 0;; ++count) {
      if (count > kMaxQuantifiers)
        return Error(StrCat("more than ", kMaxQuantifiers, " quantifiers in a row"));
      GrammarExpr repeat;
      repeat.kind = GrammarExpr::Kind::kRepeat;
      repeat.parts = {item};
      if (Take('?')) {
        repeat.max = 1;
      } else if (Take('+')) {
        repeat.min = 1;
      } else if (Take('{')) {
        MOEPOOL_RETURN_IF_ERROR(ParseCounts(&repeat));
      } else if (!Take('*')) {
        return item;
      }
      MOEPOOL_ASSIGN_OR_RETURN(item, AddExpr(std::move(repeat)));
    }
  }

  absl::Status ParseCounts(GrammarExpr* repeat) {
    SkipSpace();
    if (Peek() != ',') {
      MOEPOOL_ASSIGN_OR_RETURN(repeat->min, TakeCount());
      repeat->max = repeat->min;
      SkipSpace();
    }
    if (Take(',')) {
      SkipSpace();
      repeat->max = -1;
      if (Peek() != '}') {
        MOEPOOL_ASSIGN_OR_RETURN(repeat->max, TakeCount());
        SkipSpace();
        if (repeat->max < repeat->min) {
          return Error(StrCat("the counts go from ", repeat->min, " down to ", repeat->max));
        }
      }
    }
    return Take('}') ? absl::OkStatus() : Error("expected }");
  }

  absl::StatusOr<Grammar> Finish() {
    for (size_t i = 0; i < grammar_.rules.size(); ++i) {
      if (grammar_.rules[i].body == kUndefined) {
        const std::string& name = grammar_.rules[i].name;
        return ErrorAt(first_use_[i] - name.size(), StrCat("rule ", name, " is not defined"));
      }
    }
    const auto root = rule_by_name_.find("root");
    if (root == rule_by_name_.end()) {
      return absl::InvalidArgumentError("the grammar has no rule named root");
    }
    grammar_.root = root->second;
    return std::move(grammar_);
  }

  static constexpr uint32_t kUndefined = 0xFFFFFFFF;

  const std::string_view text_;
  size_t at_ = 0;
  size_t located_ = 0;
  size_t line_start_ = 0;
  int line_ = 1;
  Grammar grammar_;
  std::vector<size_t> first_use_;  // by rule
  absl::flat_hash_map<std::string_view, uint32_t> rule_by_name_;
};

}  // namespace

absl::StatusOr<Grammar> ParseGrammar(std::string_view text) { return GrammarParser(text).Parse(); }

}  // namespace moepool
