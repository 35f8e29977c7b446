#include "common/constrain/schema_pattern.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/utf8.h"
#include "common/constrain/grammar.h"

namespace moepool {
namespace {

constexpr int kMaxPatternDepth = 32;
constexpr size_t kMaxPatternBytes = 16 << 10;

const CodePointSet& Digit() {
  static const auto* const set = new CodePointSet({{'0', '9'}});
  return *set;
}
const CodePointSet& Word() {
  static const auto* const set = new CodePointSet({{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}});
  return *set;
}
// White space and line ends of ECMA-262.
const CodePointSet& Space() {
  static const auto* const set = new CodePointSet({{9, 13},
                                                   {' ', ' '},
                                                   {0xA0, 0xA0},
                                                   {0x1680, 0x1680},
                                                   {0x2000, 0x200A},
                                                   {0x2028, 0x2029},
                                                   {0x202F, 0x202F},
                                                   {0x205F, 0x205F},
                                                   {0x3000, 0x3000},
                                                   {0xFEFF, 0xFEFF}});
  return *set;
}
const CodePointSet& LineEnd() {
  static const auto* const set = new CodePointSet({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}});
  return *set;
}

class PatternParser {
 public:
  PatternParser(std::string_view pattern, GrammarText* text) : pattern_(pattern), text_(text) {}

  absl::StatusOr<std::string> Parse() {
    if (pattern_.size() > kMaxPatternBytes) {
      return absl::InvalidArgumentError(
          StrCat("has ", pattern_.size(), " bytes, at most ", kMaxPatternBytes, " are possible"));
    }
    if (!IsUtf8(pattern_)) return absl::InvalidArgumentError("is not UTF-8");
    const std::string any = StrCat(text_->Use("char"), "*");
    std::string all;
    do {
      const bool from_start = Take('^');
      MOEPOOL_ASSIGN_OR_RETURN(const std::string middle, ParseSequence(0));
      const bool to_end = Take('$');
      all += StrCat(all.empty() ? "" : " | ", from_start ? "" : any, " ", middle, " ", to_end ? "" : any);
    } while (Take('|'));
    if (at_ < pattern_.size()) {
      return Error(pattern_[at_] == ')' ? "has no ( before it" : "stands where it is not supported");
    }
    return StrCat("(", all, ")");
  }

 private:
  char Peek() const { return at_ < pattern_.size() ? pattern_[at_] : '\0'; }
  bool Take(char c) {
    if (at_ == pattern_.size() || pattern_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool Take(std::string_view text) {
    if (!pattern_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  absl::Status Error(std::string_view what) const {
    const std::string_view rest = pattern_.substr(std::min(at_, pattern_.size()));
    const size_t shown = ValidUtf8Prefix(rest.substr(0, 12));
    return absl::InvalidArgumentError(StrCat("at byte ", at_, ", \"", rest.substr(0, shown), "\": ", what));
  }

  absl::StatusOr<std::string> ParseAlternatives(int depth) {
    std::string all;
    do {
      if (Peek() == '^') return Error("^ is supported at the start of the pattern's alternatives alone");
      MOEPOOL_ASSIGN_OR_RETURN(const std::string one, ParseSequence(depth));
      if (Peek() == '$') return Error("$ is supported at the end of the pattern's alternatives alone");
      all += StrCat(all.empty() ? "" : " | ", one.empty() ? "\"\"" : one);
    } while (Take('|'));
    return StrCat("(", all, ")");
  }

  absl::StatusOr<std::string> ParseSequence(int depth) {
    std::string sequence;
    while (at_ < pattern_.size() && Peek() != '|' && Peek() != ')' && Peek() != '$') {
      MOEPOOL_ASSIGN_OR_RETURN(const std::string item, ParseItem(depth));
      MOEPOOL_ASSIGN_OR_RETURN(const std::string counts, ParseQuantifier());
      sequence += StrCat(item, counts, " ");
    }
    return sequence;
  }

  absl::StatusOr<std::string> ParseItem(int depth) {
    if (Take('(')) {
      if (Take("?")) {
        if (!Take(":")) {
          return Error("only groups (...) and (?:...) are supported, no look-around, names or flags");
        }
      }
      if (depth == kMaxPatternDepth) return Error("groups are nested too deep");
      MOEPOOL_ASSIGN_OR_RETURN(std::string group, ParseAlternatives(depth + 1));
      if (!Take(')')) return Error("expected )");
      return group;
    }
    if (Take('.')) return OneOf(LineEnd().Complement());
    if (Take('[')) return ParseClass();
    if (Peek() == '^') return Error("^ is supported at the start of the pattern's alternatives alone");
    for (const char c : {'*', '+', '?', '{', '}', ']'}) {
      if (Peek() == c) return Error("there is nothing to repeat, or a bracket without its partner");
    }
    if (Peek() == '\\') {
      MOEPOOL_ASSIGN_OR_RETURN(const CodePointSet set, ParseEscape(/*in_class=*/false));
      return OneOf(set);
    }
    const char32_t c = TakeCharacter();
    return OneOf(CodePointSet({{c, c}}));
  }

  absl::StatusOr<std::string> OneOf(const CodePointSet& set) {
    std::string chars = JsonCharOf(set);
    if (chars.empty()) return Error("no character is possible here");
    return chars;
  }

  char32_t TakeCharacter() {
    const Utf8Step step = NextUtf8(pattern_.substr(at_));
    at_ += static_cast<size_t>(step.bytes);
    return step.code_point;
  }

  absl::StatusOr<CodePointSet> ParseEscape(bool in_class) {
    ++at_;
    if (at_ == pattern_.size()) return Error("expected a character after the backslash");
    const char escape = pattern_[at_];
    const auto single = [](char32_t c) { return CodePointSet({{c, c}}); };
    ++at_;
    switch (escape) {
      case 'd':
        return Digit();
      case 'D':
        return Digit().Complement();
      case 'w':
        return Word();
      case 'W':
        return Word().Complement();
      case 's':
        return Space();
      case 'S':
        return Space().Complement();
      case 'n':
        return single('\n');
      case 'r':
        return single('\r');
      case 't':
        return single('\t');
      case 'f':
        return single('\f');
      case 'v':
        return single('\v');
      case '0':
        if (Digit().Contains(static_cast<char32_t>(Peek()))) break;
        return single(0);
      case 'b':
        if (in_class) return single('\b');
        break;
      case 'x':
        return ParseHex(2);
      case 'u':
        return ParseUnicode();
      default:
        if (!Word().Contains(static_cast<uint8_t>(escape)) && static_cast<uint8_t>(escape) < 0x80) {
          return single(static_cast<char32_t>(escape));
        }
    }
    at_ -= 2;
    return Error("this escape is not supported");
  }

  absl::StatusOr<CodePointSet> ParseUnicode() {
    if (!Take('{')) {
      const size_t begin = at_;
      MOEPOOL_ASSIGN_OR_RETURN(const uint32_t first, TakeHex(4));
      if (first < 0xD800 || first > 0xDFFF) return CodePointSet({{first, first}});
      if (first < 0xDC00 && Take("\\u")) {
        MOEPOOL_ASSIGN_OR_RETURN(const uint32_t second, TakeHex(4));
        const char32_t c = 0x10000 + ((first - 0xD800) << 10 | (second - 0xDC00));
        if (second >= 0xDC00 && second <= 0xDFFF) return CodePointSet({{c, c}});
      }
      at_ = begin;
      return Error("half a surrogate pair");
    }
    size_t digits = 0;
    while (at_ + digits < pattern_.size() && pattern_[at_ + digits] != '}') ++digits;
    if (digits == 0 || digits > 6) return Error("expected 1 to 6 hexadecimal digits and }");
    MOEPOOL_ASSIGN_OR_RETURN(CodePointSet set, ParseHex(static_cast<int>(digits)));
    if (!Take('}')) return Error("expected }");
    return set;
  }

  absl::StatusOr<CodePointSet> ParseHex(int digits) {
    MOEPOOL_ASSIGN_OR_RETURN(const char32_t c, TakeHex(digits));
    CodePointSet set({{c, c}});
    if (set.empty()) return Error("not a character");
    return set;
  }

  absl::StatusOr<uint32_t> TakeHex(int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const char c = Peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return Error(StrCat("expected ", digits, " hexadecimal digits"));
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    return value;
  }

  // One character of a class, or a set such as \d, where `single` is left unset.
  absl::StatusOr<CodePointSet> ParseClassItem(std::optional<char32_t>* single) {
    CodePointSet set;
    if (Peek() == '\\') {
      MOEPOOL_ASSIGN_OR_RETURN(set, ParseEscape(/*in_class=*/true));
    } else {
      const char32_t c = TakeCharacter();
      set = CodePointSet({{c, c}});
    }
    single->reset();
    if (set.ranges().size() == 1 && set.ranges()[0].first == set.ranges()[0].last)
      *single = set.ranges()[0].first;
    return set;
  }

  absl::StatusOr<std::string> ParseClass() {
    const bool negated = Take('^');
    CodePointSet set;
    while (!Take(']')) {
      if (at_ == pattern_.size()) return Error("expected ]");
      std::optional<char32_t> first;
      MOEPOOL_ASSIGN_OR_RETURN(CodePointSet item, ParseClassItem(&first));
      if (Peek() == '-' && at_ + 1 < pattern_.size() && pattern_[at_ + 1] != ']') {
        ++at_;
        std::optional<char32_t> last;
        MOEPOOL_RETURN_IF_ERROR(ParseClassItem(&last).status());
        if (!first.has_value() || !last.has_value() || *last < *first) return Error("not a range");
        item = CodePointSet({{*first, *last}});
      }
      set = set.Union(item);
    }
    return OneOf(negated ? set.Complement() : set);
  }

  absl::StatusOr<int32_t> TakeCount() {
    int64_t value = 0;
    if (Peek() < '0' || Peek() > '9') return Error("expected a number");
    while (Peek() >= '0' && Peek() <= '9') {
      value = value * 10 + (pattern_[at_++] - '0');
      if (value > kMaxGrammarCount) return Error(StrCat("a count is more than ", kMaxGrammarCount));
    }
    return static_cast<int32_t>(value);
  }

  // Lazy ones match the same texts.
  absl::StatusOr<std::string> ParseQuantifier() {
    std::string counts;
    if (Take('*')) {
      counts = "*";
    } else if (Take('+')) {
      counts = "+";
    } else if (Take('?')) {
      counts = "?";
    } else if (Take('{')) {
      MOEPOOL_ASSIGN_OR_RETURN(const int32_t least, TakeCount());
      counts = StrCat("{", least);
      if (Take(',')) {
        counts += ",";
        if (Peek() != '}') {
          MOEPOOL_ASSIGN_OR_RETURN(const int32_t most, TakeCount());
          if (most < least) return Error(StrCat("the counts go from ", least, " down to ", most));
          counts += StrCat(most);
        }
      }
      if (!Take('}')) return Error("expected }");
      counts += "}";
    } else {
      return counts;
    }
    Take('?');
    return counts;
  }

  const std::string_view pattern_;
  GrammarText* const text_;
  size_t at_ = 0;
};

}  // namespace

absl::StatusOr<std::string> PatternToGrammar(std::string_view pattern, GrammarText* text) {
  return PatternParser(pattern, text).Parse();
}

std::string JsonCharOf(const CodePointSet& set) {
  static const auto* const plain =
      new CodePointSet(CodePointSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}).Complement());
  std::string out;
  const auto add = [&out](std::string_view alternative) {
    out += StrCat(out.empty() ? "" : " | ", alternative);
  };
  if (const CodePointSet unescaped = set.Intersect(*plain); !unescaped.empty()) add(GrammarClass(unescaped));
  for (char32_t c = 0; c < 0x60; ++c) {
    if (plain->Contains(c) || !set.Contains(c)) continue;
    static constexpr std::pair<char, char> kShort[] = {{'"', '"'},  {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'},
                                                       {'\n', 'n'}, {'\r', 'r'},  {'\t', 't'}};
    std::string escaped = absl::StrFormat("\\u%04x", uint32_t{c});
    for (const auto& [character, letter] : kShort) {
      if (static_cast<char32_t>(character) == c) escaped = {'\\', letter};
    }
    add(GrammarLiteral(escaped));
  }
  return out.empty() ? out : StrCat("(", out, ")");
}

}  // namespace moepool
