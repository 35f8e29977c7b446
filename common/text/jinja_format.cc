// Python's two ways of formatting: "text % arguments" and "text".format(arguments), the latter with plain
// fields (no attribute or item access inside braces, no nested specifications).
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_unicode.h"

namespace moepool::jinja {
namespace {

constexpr int64_t kMaxPrecision = 300;

struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =, or the type's own
  char sign = '\0';   // + or space
  bool alternate = false, comma = false;
  int64_t width = 0, precision = -1;
  char type = '\0';
};

// Digits at `*at`, which moves past them; -1 where there are none.
absl::StatusOr<int64_t> TakeNumber(std::string_view text, size_t* at) {
  const size_t start = *at;
  while (*at < text.size() && absl::ascii_isdigit(text[*at])) ++*at;
  if (*at == start) return -1;
  int64_t number = 0;
  if (!absl::SimpleAtoi(ToAbsl(text.substr(start, *at - start)), &number))
    return TypeError("too many digits in a format");
  return number;
}

std::string GroupThousands(std::string digits) {
  size_t end = digits.find_first_not_of("0123456789");
  if (end == std::string::npos) end = digits.size();
  for (size_t at = end; at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

// Of d, x, X, o and b.
absl::StatusOr<std::string> IntegerDigits(const Value& value, const Spec& spec) {
  if (!value.IsNumber())
    return TypeError(StrCat("%", std::string(1, spec.type), " format: a number is required"));
  if (!value.IsIntegral() && !(std::fabs(value.AsDouble()) < 0x1p63)) return TypeError("integer overflow");
  const int64_t integer = value.IsIntegral() ? value.AsInt() : static_cast<int64_t>(value.AsDouble());
  const uint64_t magnitude = integer < 0 ? -static_cast<uint64_t>(integer) : static_cast<uint64_t>(integer);
  const int base = spec.type == 'd' ? 10 : spec.type == 'o' ? 8 : spec.type == 'b' ? 2 : 16;
  char buffer[64];
  const char* const end = std::to_chars(buffer, buffer + sizeof(buffer), magnitude, base).ptr;
  std::string digits(buffer, static_cast<size_t>(end - buffer));
  if (spec.type == 'X') digits = Upper(digits);
  if (spec.comma) digits = GroupThousands(digits);
  if (spec.alternate && base != 10) digits = StrCat("0", std::string(1, spec.type), digits);
  return digits;
}

// The digits of a number without its sign.
absl::StatusOr<std::string> Digits(const Value& value, const Spec& spec) {
  if (std::string_view("dxXob").find(spec.type) != std::string_view::npos) return IntegerDigits(value, spec);
  if (!value.IsNumber()) return TypeError(StrCat("must be real number, not ", value.TypeName()));
  const double number = std::fabs(spec.type == '%' ? value.AsDouble() * 100 : value.AsDouble());
  if (!std::isfinite(number)) return std::string(std::isnan(number) ? "nan" : "inf");
  if (spec.precision > kMaxPrecision) return TypeError(StrCat("precision ", spec.precision, " is too large"));
  const char conversion = spec.type == '%' ? 'f' : spec.type;
  char buffer[700];
  const char pattern[] = {'%', '.', '*', conversion, '\0'};
  std::snprintf(buffer, sizeof(buffer), pattern, static_cast<int>(spec.precision < 0 ? 6 : spec.precision),
                number);
  std::string digits = spec.comma ? GroupThousands(buffer) : buffer;
  if (spec.type == '%') digits += '%';
  return digits;
}

absl::Status AppendPadded(Runtime& runtime, const Spec& spec, std::string_view sign, std::string_view body,
                          char default_align, std::string* out) {
  const int64_t missing = spec.width - CountCodePoints(body) - static_cast<int64_t>(sign.size());
  MOEPOOL_RETURN_IF_ERROR(
      runtime.ChargeBytes(static_cast<size_t>(std::max<int64_t>(missing, 0)) + body.size()));
  const char align = spec.align == '\0' ? default_align : spec.align;
  const int64_t before = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  auto pad = [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) *out += spec.fill;
  };
  if (align == '=') out->append(sign);
  pad(0, before);
  if (align != '=') out->append(sign);
  out->append(body);
  pad(std::max<int64_t>(before, 0), missing);
  return runtime.CheckSize(out->size());
}

absl::Status AppendNumber(Runtime& runtime, const Value& value, const Spec& spec, std::string* out) {
  if (value.IsUndefined()) return UndefinedError(value);
  MOEPOOL_ASSIGN_OR_RETURN(const std::string digits, Digits(value, spec));
  const double number = value.AsDouble();
  const bool negative =
      number < 0 || (value.kind() == Value::Kind::kFloat && std::signbit(number) && spec.type != 'd');
  const std::string sign = negative ? "-" : spec.sign != '\0' ? std::string(1, spec.sign) : "";
  return AppendPadded(runtime, spec, sign, digits, '>', out);
}

std::string Clip(const std::string& text, int64_t precision) {
  return precision < 0 ? text : text.substr(0, ByteOffset(text, precision));
}

// `[[fill]align][sign][#][0][width][,][.precision][type]`.
absl::StatusOr<Spec> ParseSpec(std::string_view text) {
  Spec spec;
  size_t at = 0;
  auto is_align = [&](size_t i) {
    return i < text.size() && std::string_view("<>^=").find(text[i]) != std::string_view::npos;
  };
  const size_t fill_bytes = text.empty() ? 0 : DecodeAt(text, 0);
  if (fill_bytes > 0 && is_align(fill_bytes)) {
    spec.fill = text.substr(0, fill_bytes);
    at = fill_bytes;
  }
  if (is_align(at)) spec.align = text[at++];
  auto take = [&](char c) {
    const bool there = at < text.size() && text[at] == c;
    at += there;
    return there;
  };
  if (take('+'))
    spec.sign = '+';
  else if (take(' '))
    spec.sign = ' ';
  else
    take('-');
  spec.alternate = take('#');
  if (take('0') && spec.align == '\0') {
    spec.align = '=';
    spec.fill = "0";
  }
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t width, TakeNumber(text, &at));
  spec.width = std::max<int64_t>(width, 0);
  spec.comma = take(',');
  if (take('.')) {
    MOEPOOL_ASSIGN_OR_RETURN(spec.precision, TakeNumber(text, &at));
    if (spec.precision < 0) return TypeError("format specifier missing precision");
  }
  if (at < text.size()) spec.type = text[at++];
  if (at != text.size()) return TypeError(StrCat("invalid format specifier '", text, "'"));
  return spec;
}

absl::Status AppendFormatted(Runtime& runtime, const Value& value, std::string_view spec_text,
                             std::string* out) {
  MOEPOOL_ASSIGN_OR_RETURN(Spec spec, ParseSpec(spec_text));
  if (value.IsNumber() && (value.kind() != Value::Kind::kBool || spec.type != '\0') && spec.type != 's') {
    if (spec.type == '\0' && value.kind() == Value::Kind::kFloat && spec.precision < 0) {
      const std::string text = FloatRepr(std::fabs(value.AsDouble()));
      const std::string sign = std::signbit(value.AsDouble()) ? "-"
                               : spec.sign != '\0'            ? std::string(1, spec.sign)
                                                              : "";
      return AppendPadded(runtime, spec, sign, spec.comma ? GroupThousands(text) : text, '>', out);
    }
    if (spec.type == '\0') spec.type = value.IsIntegral() ? 'd' : 'g';
    const std::string_view allowed = value.IsIntegral() ? "bdoxXeEfFgG%" : "eEfFgG%";
    if (allowed.find(spec.type) == std::string_view::npos) {
      return TypeError(
          StrCat("unknown format code '", std::string(1, spec.type), "' for a ", value.TypeName()));
    }
    return AppendNumber(runtime, value, spec, out);
  }
  if (spec.type != '\0' && spec.type != 's') {
    return TypeError(
        StrCat("unknown format code '", std::string(1, spec.type), "' for a ", value.TypeName()));
  }
  if (!value.IsString() && !spec_text.empty()) {
    return TypeError(StrCat("unsupported format string passed to ", value.TypeName(), ".__format__"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const std::string text, ToText(runtime, value));
  return AppendPadded(runtime, spec, "", Clip(text, spec.precision), '<', out);
}

}  // namespace

absl::StatusOr<Value> FormatPercent(Runtime& runtime, const std::string& text, const Value& arguments) {
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size()));
  const bool tuple = arguments.IsList() && arguments.AsList().kind == ListKind::kTuple;
  const size_t count = tuple ? arguments.AsList().items.size() : 1;
  size_t used = 0;
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (text[at] != '%') {
      const size_t end = std::min(text.find('%', at), text.size());
      out.append(text, at, end - at);
      at = end;
      continue;
    }
    ++at;
    Spec spec;
    const Value* value = nullptr;
    if (at < text.size() && text[at] == '(') {
      const size_t close = text.find(')', at);
      if (close == std::string::npos) return TypeError("incomplete format key");
      if (!arguments.IsDict()) return TypeError("format requires a mapping");
      const std::string key = text.substr(at + 1, close - at - 1);
      value = arguments.AsDict().Find(key);
      if (value == nullptr) return TypeError(StrCat("no key '", key, "' to format"));
      at = close + 1;
    }
    for (; at < text.size() && std::string_view("-+ 0#").find(text[at]) != std::string_view::npos; ++at) {
      if (text[at] == '-') spec.align = '<';
      if (text[at] == '+' || (text[at] == ' ' && spec.sign == '\0')) spec.sign = text[at];
      if (text[at] == '0' && spec.align == '\0') spec.align = '=';
      if (text[at] == '#') spec.alternate = true;
    }
    MOEPOOL_ASSIGN_OR_RETURN(const int64_t width, TakeNumber(text, &at));
    spec.width = std::max<int64_t>(width, 0);
    if (at < text.size() && text[at] == '.') {
      ++at;
      MOEPOOL_ASSIGN_OR_RETURN(const int64_t precision, TakeNumber(text, &at));
      spec.precision = std::max<int64_t>(precision, 0);
    }
    if (at >= text.size()) return TypeError("incomplete format");
    spec.type = text[at++];
    if (spec.type == '%') {
      out.push_back('%');
      continue;
    }
    if (value == nullptr) {
      if (used >= count) return TypeError("not enough arguments for format string");
      value = tuple ? &arguments.AsList().items[used] : &arguments;
      ++used;
    }
    if (spec.type == 's' || spec.type == 'r') {
      if (spec.align == '=') spec.align = '>';
      std::string body;
      MOEPOOL_RETURN_IF_ERROR(spec.type == 's' ? AppendText(runtime, *value, &body)
                                               : AppendRepr(runtime, *value, &body));
      MOEPOOL_RETURN_IF_ERROR(AppendPadded(runtime, spec, "", Clip(body, spec.precision), '>', &out));
      continue;
    }
    if (spec.type == 'i' || spec.type == 'u') spec.type = 'd';
    if (std::string_view("dxXoeEfFgG").find(spec.type) == std::string_view::npos) {
      return TypeError(StrCat("unsupported format character '", std::string(1, spec.type), "'"));
    }
    if (spec.align == '=') spec.fill = "0";
    MOEPOOL_RETURN_IF_ERROR(AppendNumber(runtime, *value, spec, &out));
  }
  if (used < count && !arguments.IsDict() && (tuple || used == 0)) {
    return TypeError("not all arguments converted during string formatting");
  }
  return runtime.NewString(std::move(out));
}

absl::StatusOr<Value> FormatBraces(Runtime& runtime, const std::string& text, const Args& args) {
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size()));
  std::string out;
  size_t next = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c != '{' && c != '}') {
      out.push_back(c);
      continue;
    }
    if (at + 1 < text.size() && text[at + 1] == c) {
      out.push_back(c);
      ++at;
      continue;
    }
    const size_t close = text.find('}', at);
    if (c == '}' || close == std::string::npos)
      return TypeError(StrCat("single '", std::string(1, c), "' in a format"));
    std::string_view field = std::string_view(text).substr(at + 1, close - at - 1);
    at = close;
    std::string_view spec, name = field;
    if (const size_t colon = field.find(':'); colon != std::string_view::npos) {
      spec = field.substr(colon + 1);
      name = field.substr(0, colon);
    }
    bool repr = false;
    if (const size_t mark = name.find('!'); mark != std::string_view::npos) {
      if (name.substr(mark) != "!r" && name.substr(mark) != "!s")
        return TypeError("unknown conversion in a format");
      repr = name.substr(mark) == "!r";
      name = name.substr(0, mark);
    }
    const Value* value = nullptr;
    size_t index = next;
    if (name.empty() || absl::SimpleAtoi(ToAbsl(name), &index)) {
      if (name.empty()) ++next;
      if (index >= args.positional.size()) return TypeError(StrCat("no argument ", index, " to format"));
      value = &args.positional[index];
    } else {
      for (const auto& [key, argument] : args.named) {
        if (key == name) value = &argument;
      }
      if (value == nullptr) return TypeError(StrCat("no argument '", name, "' to format"));
    }
    Value shown = *value;
    if (repr) {
      std::string body;
      MOEPOOL_RETURN_IF_ERROR(AppendRepr(runtime, *value, &body));
      shown = Value::String(std::move(body));
    }
    MOEPOOL_RETURN_IF_ERROR(AppendFormatted(runtime, shown, spec, &out));
  }
  return runtime.NewString(std::move(out));
}

}  // namespace moepool::jinja
