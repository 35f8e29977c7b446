#include "common/text/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_unicode.h"

namespace moepool::jinja {
namespace {

// One newline convention, and no newline at the very end (keep_trailing_newline is off).
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsNameByte(char c) { return absl::ascii_isalnum(c) || c == '_' || static_cast<uint8_t>(c) >= 0x80; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(NormalizeNewlines(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) MOEPOOL_RETURN_IF_ERROR(Root());
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Error(std::string_view cause) const {
    return absl::InvalidArgumentError(StrCat("chat template line ", line_, ": ", cause));
  }

  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool StartsWith(std::string_view text) const { return Rest().starts_with(text); }

  void Add(TokenKind kind, std::string_view text) { tokens_.push_back({kind, std::string(text), line_}); }

  void Advance(size_t bytes) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + at_ + bytes, '\n'));
    at_ += bytes;
  }

  void SkipSpace() { Advance(Rest().size() - StripLeft(Rest()).size()); }

  // Text up to the next tag, without what the tag's sign or lstrip_blocks takes from its end. `at_` is at the
  // text, `tag` at the tag's first byte, `sign` what follows its delimiter.
  void AddData(size_t tag, char sign, bool lstrip) {
    std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    if (sign == '-') {
      text = StripRight(text);
    } else if (sign != '+' && lstrip) {
      const size_t newline = text.rfind('\n');
      const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      const bool at_line_start = start > 0 || tag == 0 || LineStarts(at_);
      if (at_line_start && start < text.size() && StripLeft(text.substr(start)).empty())
        text = text.substr(0, start);
    }
    if (!text.empty()) Add(TokenKind::kData, text);
    Advance(tag - at_);
  }

  bool LineStarts(size_t at) const { return at == 0 || source_[at - 1] == '\n'; }

  // Data up to the next delimiter, and the tag that starts there.
  absl::Status Root() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        Add(TokenKind::kData, Rest());
        Advance(Rest().size());
        return absl::OkStatus();
      }
      const char next = source_[tag + 1];
      if (next == '{' || next == '%' || next == '#') break;
      ++tag;
    }
    const char kind = source_[tag + 1];
    char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign != '-' && sign != '+') sign = '\0';
    AddData(tag, sign, /*lstrip=*/kind != '{');
    const size_t raw_bytes = kind == '%' ? RawTagBytes("raw") : 0;
    if (raw_bytes > 0) return Raw(raw_bytes);
    if (kind == '{') Add(TokenKind::kVariableBegin, "{{");
    if (kind == '%') Add(TokenKind::kBlockBegin, "{%");
    Advance(sign == '\0' ? 2 : 3);
    if (kind == '#') return Comment();
    return Inside(kind == '{');
  }

  absl::Status Comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return Error("missing end of comment tag");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    Advance(end + 2 - at_);
    AfterBlock(sign);
    return absl::OkStatus();
  }

  // What a closing delimiter with this sign takes from the text after it.
  void AfterBlock(char sign) {
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && StartsWith("\n")) {
      Advance(1);
    }
  }

  // Bytes of `{% word %}` at at_, with any signs, or 0 where something else stands there.
  size_t RawTagBytes(std::string_view word) const {
    std::string_view rest = Rest();
    if (!rest.starts_with("{%")) return 0;
    rest.remove_prefix(2);
    if (rest.starts_with("-") || rest.starts_with("+")) rest.remove_prefix(1);
    rest = StripLeft(rest);
    if (!rest.starts_with(word)) return 0;
    rest = StripLeft(rest.substr(word.size()));
    if (rest.starts_with("-") || (word == "endraw" && rest.starts_with("+"))) rest.remove_prefix(1);
    if (!rest.starts_with("%}")) return 0;
    return Rest().size() - rest.size() + 2;
  }

  // The body of a raw block. Its opening tag takes no newline after it, its closing tag does.
  absl::Status Raw(size_t open_bytes) {
    const bool strip = source_[at_ + open_bytes - 3] == '-';
    Advance(open_bytes);
    if (strip) SkipSpace();
    const size_t body = at_;
    for (size_t tag = source_.find("{%", body); tag != std::string::npos; tag = source_.find("{%", tag + 1)) {
      at_ = tag;
      const size_t close_bytes = RawTagBytes("endraw");
      at_ = body;
      if (close_bytes == 0) continue;
      AddData(tag, source_[tag + 2], /*lstrip=*/true);
      const char sign = source_[tag + close_bytes - 3];
      Advance(close_bytes);
      AfterBlock(sign);
      return absl::OkStatus();
    }
    return Error("missing end of raw directive");
  }

  // Tokens up to the closing delimiter; one inside brackets does not close.
  absl::Status Inside(bool variable) {
    const std::string_view end = variable ? "}}" : "%}";
    const TokenKind end_kind = variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd;
    std::string brackets;
    while (true) {
      if (brackets.empty()) {
        const bool minus = StartsWith("-") && Rest().substr(1).starts_with(end);
        const bool plus = !variable && StartsWith("+") && Rest().substr(1).starts_with(end);
        if (minus || plus || StartsWith(end)) {
          Add(end_kind, end);
          Advance(minus || plus ? 3 : 2);
          if (variable) {
            if (minus) SkipSpace();
          } else {
            AfterBlock(minus ? '-' : plus ? '+' : '\0');
          }
          return absl::OkStatus();
        }
      }
      if (at_ >= source_.size()) return Error(StrCat("unexpected end of template, expected '", end, "'"));
      const size_t before = at_;
      SkipSpace();
      if (at_ != before) continue;
      MOEPOOL_RETURN_IF_ERROR(Next(&brackets));
    }
  }

  absl::Status Next(std::string* brackets) {
    const char c = source_[at_];
    if (absl::ascii_isdigit(c)) return Number();
    if (IsNameByte(c)) {
      size_t end = at_;
      while (end < source_.size() && IsNameByte(source_[end])) ++end;
      Add(TokenKind::kName, std::string_view(source_).substr(at_, end - at_));
      Advance(end - at_);
      return absl::OkStatus();
    }
    if (c == '\'' || c == '"') return String(c);
    static constexpr std::array<std::string_view, 26> kOperators = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (std::string_view op : kOperators) {
      if (!StartsWith(op)) continue;
      if (c == '(' || c == '[' || c == '{') brackets->push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      if (c == ')' || c == ']' || c == '}') {
        if (brackets->empty()) return Error(StrCat("unexpected '", op, "'"));
        if (brackets->back() != c) {
          return Error(
              StrCat("unexpected '", op, "', expected '", brackets->substr(brackets->size() - 1), "'"));
        }
        brackets->pop_back();
      }
      Add(TokenKind::kOperator, op);
      Advance(op.size());
      return absl::OkStatus();
    }
    return Error(StrCat("unexpected char '", std::string(1, c), "'"));
  }

  // End of a run of digits, with single underscores between them, that starts at `at`; `at` where there is
  // none.
  size_t Digits(size_t at) const {
    size_t end = at;
    while (end < source_.size() && (absl::ascii_isdigit(source_[end]) ||
                                    (source_[end] == '_' && end > at && end + 1 < source_.size() &&
                                     source_[end - 1] != '_' && absl::ascii_isdigit(source_[end + 1])))) {
      ++end;
    }
    return end;
  }

  absl::Status Number() {
    size_t end = Digits(at_);
    bool is_float = false;
    // After a dot, `x.0.1` means two subscripts.
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    if (!after_dot) {
      if (end < source_.size() && source_[end] == '.' && Digits(end + 1) > end + 1) {
        end = Digits(end + 1);
        is_float = true;
      }
      if (end < source_.size() && (source_[end] | 32) == 'e') {
        const size_t sign =
            end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-') ? 1 : 0;
        if (Digits(end + 1 + sign) > end + 1 + sign) {
          end = Digits(end + 1 + sign);
          is_float = true;
        }
      }
    }
    if (!is_float && source_[at_] == '0' && at_ + 1 < source_.size()) {
      const char base = static_cast<char>(source_[at_ + 1] | 32);
      size_t last = at_ + 2;
      while ((base == 'x' || base == 'o' || base == 'b') && last < source_.size() &&
             (source_[last] == '_' || (base == 'x'   ? absl::ascii_isxdigit(source_[last])
                                       : base == 'o' ? source_[last] >= '0' && source_[last] <= '7'
                                                     : source_[last] == '0' || source_[last] == '1'))) {
        ++last;
      }
      if (last > at_ + 2) end = last;
    }
    std::string digits = source_.substr(at_, end - at_);
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    if (!is_float && digits.size() > 1 && digits[0] == '0' && absl::ascii_isdigit(digits[1]) &&
        digits.find_first_not_of('0') != std::string::npos) {
      return Error("an integer has a leading zero");
    }
    Add(is_float ? TokenKind::kFloat : TokenKind::kInt, digits);
    Advance(end - at_);
    return absl::OkStatus();
  }

  absl::Status String(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return Error("unterminated string");
    std::string value;
    MOEPOOL_RETURN_IF_ERROR(Unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1), &value));
    Add(TokenKind::kString, value);
    Advance(end + 1 - at_);
    return absl::OkStatus();
  }

  // Python's escapes. \N{...} would need the table of character names and is refused.
  absl::Status Unescape(std::string_view text, std::string* out) const {
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\') {
        out->push_back(text[i]);
        continue;
      }
      const char c = text[++i];
      static constexpr std::string_view kLetters = "ntrabfv\\'\"";
      static constexpr std::string_view kValues = "\n\t\r\a\b\f\v\\'\"";
      if (const size_t k = kLetters.find(c); k != std::string_view::npos) {
        out->push_back(kValues[k]);
      } else if (c == '\n') {
        continue;
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        uint32_t value = 0;
        for (size_t k = 1; k <= digits; ++k) {
          if (i + k >= text.size() || !absl::ascii_isxdigit(text[i + k]))
            return Error("truncated escape in a string");
          const char d = text[i + k];
          value = value << 4 | static_cast<uint32_t>(d <= '9' ? d - '0' : (d | 32) - 'a' + 10);
        }
        if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
          return Error("escape outside Unicode in a string");
        AppendUtf8(value, out);
        i += digits;
      } else if (c >= '0' && c <= '7') {
        uint32_t value = 0;
        size_t k = 0;
        for (; k < 3 && i + k < text.size() && text[i + k] >= '0' && text[i + k] <= '7'; ++k) {
          value = value << 3 | static_cast<uint32_t>(text[i + k] - '0');
        }
        AppendUtf8(value, out);
        i += k - 1;
      } else if (c == 'N') {
        return Error("\\N escapes are not supported");
      } else {
        out->push_back('\\');
        out->push_back(c);
      }
    }
    return absl::OkStatus();
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) { return Lexer(source).Run(); }

}  // namespace moepool::jinja
