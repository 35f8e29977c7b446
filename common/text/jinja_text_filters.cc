// Filters that give a text or a number.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "absl/strings/numbers.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_unicode.h"

namespace moepool::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

// Filters that map the text of their input, whatever it is.
template <typename Map>
ValueOr MapText(Runtime& runtime, const Value& input, Map map) {
  MOEPOOL_ASSIGN_OR_RETURN(const std::string text, ToText(runtime, input));
  return runtime.NewString(map(text), input.IsMarkup());
}

ValueOr UpperFilter(Runtime& r, const Value& v, const Args&) { return MapText(r, v, Upper); }
ValueOr LowerFilter(Runtime& r, const Value& v, const Args&) { return MapText(r, v, Lower); }
ValueOr CapitalizeFilter(Runtime& r, const Value& v, const Args&) { return MapText(r, v, Capitalize); }
ValueOr TitleFilter(Runtime& r, const Value& v, const Args&) {
  return MapText(r, v, [](std::string_view text) { return Title(text, /*python=*/false); });
}
ValueOr StringFilter(Runtime& r, const Value& v, const Args&) {
  return MapText(r, v, [](std::string text) { return text; });
}

ValueOr Safe(Runtime& runtime, const Value& value, const Args&) {
  MOEPOOL_ASSIGN_OR_RETURN(std::string text, ToText(runtime, value));
  return Value::String(std::move(text), /*markup=*/true);
}

ValueOr ForceEscape(Runtime& runtime, const Value& value, const Args&) {
  MOEPOOL_ASSIGN_OR_RETURN(const std::string text, ToText(runtime, value));
  return runtime.NewString(EscapeHtml(text), /*markup=*/true);
}

ValueOr Escape(Runtime& runtime, const Value& value, const Args& args) {
  if (value.IsMarkup()) return value;
  return ForceEscape(runtime, value, args);
}

ValueOr Trim(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"chars"}));
  MOEPOOL_ASSIGN_OR_RETURN(std::string text, ToText(runtime, value));
  return FindStringMethod("strip")(
      runtime, Value::String(std::move(text), value.IsMarkup()),
      Args{bound.Has(0) ? std::vector<Value>{bound[0]} : std::vector<Value>{}, {}});
}

ValueOr Replace(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"old", "new", "count"}, 2));
  MOEPOOL_ASSIGN_OR_RETURN(std::string text, ToText(runtime, value));
  MOEPOOL_ASSIGN_OR_RETURN(std::string old_text, ToText(runtime, bound[0]));
  MOEPOOL_ASSIGN_OR_RETURN(std::string new_text, ToText(runtime, bound[1]));
  Args forward{{Value::String(std::move(old_text)), Value::String(std::move(new_text))}, {}};
  if (bound.Has(2) && !bound[2].IsNone()) forward.positional.push_back(bound[2]);
  return FindStringMethod("replace")(runtime, Value::String(std::move(text), value.IsMarkup()), forward);
}

ValueOr ToJson(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound,
                           BoundArgs::Bind(args, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonFormat format;
  format.ensure_ascii = bound.True(0, false);
  format.sort_keys = bound.True(3, false);
  if (bound.Has(1) && !bound[1].IsNone()) {
    format.indented = true;
    format.item_separator.assign(1, ',');
    if (bound[1].IsString()) {
      format.indent = bound[1].AsString();
    } else {
      MOEPOOL_ASSIGN_OR_RETURN(const int64_t width, bound.Int(1, 0));
      MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(static_cast<size_t>(std::max<int64_t>(width, 0))));
      format.indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  if (bound.Has(2) && !bound[2].IsNone()) {
    MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> separators, Items(runtime, bound[2]));
    if (separators.size() != 2 || !separators[0].IsString() || !separators[1].IsString()) {
      return TypeError("separators are a pair of strings");
    }
    format.item_separator = separators[0].AsString();
    format.key_separator = separators[1].AsString();
  }
  std::string out;
  MOEPOOL_RETURN_IF_ERROR(AppendJson(runtime, value, format, 0, &out));
  return runtime.NewString(std::move(out));
}

ValueOr Default(Runtime& runtime, const Value& value, const Args& args) {
  static_cast<void>(runtime);
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"default_value", "boolean"}));
  if (value.IsUndefined() || (bound.True(1, false) && !IsTrue(value))) return bound.Or(0, Value::String(""));
  return value;
}

ValueOr LengthFilter(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_RETURN_IF_ERROR(BoundArgs::Bind(args, {}).status());
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t length, Length(runtime, value));
  return Value(length);
}

// Python's float(text): the whole of the stripped text, or nothing.
bool ParseFloat(const std::string& text, double* value) {
  const std::string_view stripped = Strip(text);
  if (stripped.find_first_of("xX") != std::string_view::npos) return false;
  return absl::SimpleAtod(ToAbsl(stripped), value);
}

// Python's int(text, base): a sign, and for bases 2, 8 and 16 a prefix, may stand first.
std::errc ParseInt(const std::string& text, int base, int64_t* value) {
  std::string_view digits = Strip(text);
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.remove_prefix(1);
  const char prefix = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : '\0';
  if (prefix != '\0' && digits.size() > 2 && digits[0] == '0' && (digits[1] | 32) == prefix)
    digits.remove_prefix(2);
  if (digits.empty() || digits[0] == '-') return std::errc::invalid_argument;
  const std::string signed_digits = StrCat(negative ? "-" : "", digits);
  const char* const end = signed_digits.data() + signed_digits.size();
  const auto [parsed, error] = std::from_chars(signed_digits.data(), end, *value, base);
  return parsed != end ? std::errc::invalid_argument : error;
}

ValueOr IntFilter(Runtime&, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"default", "base"}));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t base, bound.Int(1, 10));
  const Value otherwise = bound.Or(0, Value(int64_t{0}));
  if (value.IsUndefined()) return UndefinedError(value);
  if (value.IsIntegral()) return Value(value.AsInt());
  double number = 0;
  if (value.IsString()) {
    int64_t integer = 0;
    if (base < 2 || base > 36) return otherwise;
    const std::errc error = ParseInt(value.AsString(), static_cast<int>(base), &integer);
    if (error == std::errc()) return Value(integer);
    if (error == std::errc::result_out_of_range) return TypeError("integer overflow");
    if (!ParseFloat(value.AsString(), &number)) return otherwise;
  } else if (value.kind() == Value::Kind::kFloat) {
    number = value.AsDouble();
  } else {
    return otherwise;
  }
  if (std::isnan(number) || std::isinf(number)) return otherwise;
  if (std::fabs(number) >= 0x1p63) return TypeError("integer overflow");
  return Value(static_cast<int64_t>(number));
}

ValueOr FloatFilter(Runtime&, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"default"}));
  if (value.IsUndefined()) return UndefinedError(value);
  if (value.IsNumber()) return Value(value.AsDouble());
  double number = 0;
  if (value.IsString() && ParseFloat(value.AsString(), &number)) return Value(number);
  return bound.Or(0, Value(0.0));
}

ValueOr Abs(Runtime&, const Value& value, const Args&) {
  if (value.IsUndefined()) return UndefinedError(value);
  if (!value.IsNumber()) return TypeError(StrCat("bad operand type for abs(): '", value.TypeName(), "'"));
  const bool negative =
      value.AsDouble() < 0 || (value.kind() == Value::Kind::kFloat && std::signbit(value.AsDouble()));
  if (negative) return Negate(value);
  return value.IsIntegral() ? Value(value.AsInt()) : value;
}

// Through decimal text, because it is the decimal value that is rounded, half to even.
ValueOr Round(Runtime&, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"precision", "method"}));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t precision, bound.Int(0, 0));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string method, bound.String(1, "common"));
  if (method != "common" && method != "ceil" && method != "floor")
    return TypeError("method must be common, ceil or floor");
  if (value.IsUndefined()) return UndefinedError(value);
  if (!value.IsNumber()) return TypeError(StrCat("type ", value.TypeName(), " cannot be rounded"));
  if (method != "common") {
    const double scale = std::pow(10.0, static_cast<double>(precision));
    const double scaled = value.AsDouble() * scale;
    return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
  }
  const double number = value.AsDouble();
  if (value.IsIntegral() && precision >= 0) return Value(value.AsInt());
  if (precision > 300 || !std::isfinite(number)) return value;
  double rounded = 0;
  if (precision < 0) {
    const double scale = std::pow(10.0, static_cast<double>(-precision));
    rounded = std::nearbyint(number / scale) * scale;
  } else {
    char buffer[640];
    std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision), number);
    rounded = std::strtod(buffer, nullptr);
  }
  if (value.IsIntegral()) return Value(static_cast<int64_t>(rounded));
  return Value(rounded);
}

ValueOr Center(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"width"}));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 80));
  MOEPOOL_ASSIGN_OR_RETURN(std::string text, ToText(runtime, value));
  return FindStringMethod("center")(runtime, Value::String(std::move(text)), Args{{Value(width)}, {}});
}

ValueOr Indent(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"width", "first", "blank"}));
  std::string indent;
  if (bound.Has(0) && bound[0].IsString()) {
    indent = bound[0].AsString();
  } else {
    MOEPOOL_ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 4));
    MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(static_cast<size_t>(std::max<int64_t>(width, 0))));
    indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  if (!value.IsString()) {
    if (value.IsUndefined()) return UndefinedError(value);
    return TypeError(StrCat("cannot indent a ", value.TypeName()));
  }
  // Python's filter adds a newline, splits into lines, and joins them again.
  const std::string& text = value.AsString();
  std::string out;
  for (size_t at = 0, line = 0; at <= text.size(); ++line) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (line > 0) out.push_back('\n');
    const bool wanted = line == 0 ? bound.True(1, false) : (bound.True(2, false) || end > at);
    if (wanted) {
      MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(indent.size()));
      out += indent;
    }
    out.append(text, at, end - at);
    MOEPOOL_RETURN_IF_ERROR(runtime.CheckSize(out.size()));
    at = end + 1;
  }
  return runtime.NewString(std::move(out), value.IsMarkup());
}

ValueOr WordCount(Runtime& runtime, const Value& value, const Args&) {
  MOEPOOL_ASSIGN_OR_RETURN(const std::string text, ToText(runtime, value));
  int64_t words = 0;
  bool inside = false;
  uint32_t c;
  for (size_t at = 0; at < text.size();) {
    at += DecodeAt(text, at, &c);
    const bool word = IsAlpha(c) || IsDigit(c) || c == '_';
    words += word && !inside;
    inside = word;
  }
  return Value(words);
}

ValueOr Truncate(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound,
                           BoundArgs::Bind(args, {"length", "killwords", "end", "leeway"}));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t length, bound.Int(0, 255));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string end, bound.String(2, "..."));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t leeway, bound.Int(3, 5));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t size, Length(runtime, value));
  const int64_t end_size = CountCodePoints(end);
  if (length < end_size) return TypeError(StrCat("expected length >= ", end_size, ", got ", length));
  if (leeway < 0) return TypeError(StrCat("expected leeway >= 0, got ", leeway));
  if (size <= leeway || size - leeway <= length) return value;
  if (!value.IsString()) return TypeError(StrCat("cannot truncate a ", value.TypeName()));
  std::string text = value.AsString().substr(0, ByteOffset(value.AsString(), length - end_size));
  if (!bound.True(1, false)) text = text.substr(0, std::min(text.rfind(' '), text.size()));
  return runtime.NewString(text + end);
}

ValueOr Format(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const std::string text, ToText(runtime, value));
  if (!args.named.empty()) {
    if (!args.positional.empty())
      return TypeError("positional and keyword arguments cannot be used together");
    std::vector<std::pair<Value, Value>> entries;
    for (const auto& [name, argument] : args.named) entries.emplace_back(Value::String(name), argument);
    MOEPOOL_ASSIGN_OR_RETURN(const Value mapping, runtime.NewDict(std::move(entries)));
    return FormatPercent(runtime, text, mapping);
  }
  MOEPOOL_ASSIGN_OR_RETURN(const Value tuple, runtime.NewList(args.positional, ListKind::kTuple));
  return FormatPercent(runtime, text, tuple);
}

}  // namespace

BuiltinFilter FindTextFilter(std::string_view name) {
  static const auto* const filters = new std::map<std::string_view, BuiltinFilter>{
      {"upper", UpperFilter},
      {"lower", LowerFilter},
      {"capitalize", CapitalizeFilter},
      {"title", TitleFilter},
      {"string", StringFilter},
      {"safe", Safe},
      {"escape", Escape},
      {"e", Escape},
      {"forceescape", ForceEscape},
      {"trim", Trim},
      {"replace", Replace},
      {"tojson", ToJson},
      {"default", Default},
      {"d", Default},
      {"length", LengthFilter},
      {"count", LengthFilter},
      {"int", IntFilter},
      {"float", FloatFilter},
      {"abs", Abs},
      {"round", Round},
      {"center", Center},
      {"indent", Indent},
      {"wordcount", WordCount},
      {"truncate", Truncate},
      {"format", Format},
  };
  const auto it = filters->find(name);
  return it == filters->end() ? nullptr : it->second;
}

}  // namespace moepool::jinja
