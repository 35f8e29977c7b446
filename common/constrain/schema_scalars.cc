// Strings and numbers.
#include <utility>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/constrain/schema_compiler.h"
#include "common/constrain/schema_formats.h"
#include "common/constrain/schema_numbers.h"
#include "common/constrain/schema_pattern.h"

namespace moepool {
namespace {

bool Less(const DecimalBound& a, const DecimalBound& b) {
  if (a.negative != b.negative) return a.negative;
  const auto key = [](const DecimalBound& x) { return std::tuple(x.whole.size(), x.whole, x.fraction); };
  return a.negative ? key(b) < key(a) : key(a) < key(b);
}

bool Equal(const DecimalBound& a, const DecimalBound& b) { return !Less(a, b) && !Less(b, a); }

}  // namespace

absl::StatusOr<std::string> SchemaCompiler::String(const Json& schema, const std::string& at) {
  const bool has_length = schema.contains("minLength") || schema.contains("maxLength");
  const bool has_pattern = schema.contains("pattern");
  const bool has_format =
      schema.contains("format") &&
      !(schema["format"].is_string() && IsFreeFormat(schema["format"].get_ref<const std::string&>()));
  if (has_pattern && (has_length || has_format)) {
    return SchemaError(at, "pattern", "beside minLength, maxLength or format is not supported");
  }
  if (has_format && has_length) {
    return SchemaError(at, "format", "beside minLength or maxLength is not supported");
  }
  if (has_pattern) {
    if (!schema["pattern"].is_string()) return SchemaError(at, "pattern", "is not a string");
    auto pattern = PatternToGrammar(schema["pattern"].get_ref<const std::string&>(), &text_);
    if (!pattern.ok()) return SchemaError(at, "pattern", ToStd(pattern.status().message()));
    return text_.Add(StrCat("\"\\\"\" ", *pattern, " \"\\\"\""));
  }
  if (has_format) {
    const Json& format = schema["format"];
    const std::string grammar =
        format.is_string() ? FormatToGrammar(format.get_ref<const std::string&>()) : "";
    if (grammar.empty()) {
      return SchemaError(at, "format",
                         StrCat(JsonText(format), " is not supported: ", KnownFormats(), " are"));
    }
    return text_.Add(StrCat("\"\\\"\" ", grammar, " \"\\\"\""));
  }
  if (!has_length) return text_.Use("string");
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t least, Count(schema, "minLength", 0, at));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t most, Count(schema, "maxLength", -1, at));
  if (most >= 0 && most < least) return SchemaError(at, "maxLength", "is less than minLength");
  return text_.Add(
      StrCat("\"\\\"\" ", text_.Use("char"), "{", least, ",", most < 0 ? "" : StrCat(most), "} \"\\\"\""));
}

absl::StatusOr<std::string> SchemaCompiler::Number(const Json& schema, bool whole, const std::string& at) {
  NumberBounds bounds;
  const auto read = [&](const char* keyword, bool exclusive, bool low) -> absl::Status {
    if (!schema.contains(keyword)) return absl::OkStatus();
    const Json& value = schema[keyword];
    if (!value.is_number()) return SchemaError(at, keyword, "is not a number");
    auto decimal = ToDecimal(value, exclusive);
    if (!decimal.ok()) return SchemaError(at, keyword, ToStd(decimal.status().message()));
    std::optional<DecimalBound>& bound = low ? bounds.low : bounds.high;
    if (bound.has_value() && Equal(*bound, *decimal)) {
      bound->exclusive = bound->exclusive || exclusive;
    } else if (!bound.has_value() || (low ? Less(*bound, *decimal) : Less(*decimal, *bound))) {
      bound = *std::move(decimal);
    }
    return absl::OkStatus();
  };
  MOEPOOL_RETURN_IF_ERROR(read("minimum", false, true));
  MOEPOOL_RETURN_IF_ERROR(read("exclusiveMinimum", true, true));
  MOEPOOL_RETURN_IF_ERROR(read("maximum", false, false));
  MOEPOOL_RETURN_IF_ERROR(read("exclusiveMaximum", true, false));
  if (!bounds.low.has_value() && !bounds.high.has_value()) return text_.Use(whole ? "integer" : "number");
  const std::string numbers = whole ? IntegersBetween(bounds) : NumbersBetween(bounds);
  if (numbers.empty()) {
    return SchemaError(at, schema.contains("minimum") ? "minimum" : "maximum",
                       "leaves no number to be written");
  }
  return text_.Add(numbers);
}

}  // namespace moepool
