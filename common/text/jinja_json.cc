// json.dumps, as `tojson` calls it.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/text/jinja_runtime.h"
#include "common/text/jinja_strings.h"
#include "common/text/jinja_unicode.h"

namespace moepool::jinja {
namespace {

absl::Status AppendJsonString(Runtime& runtime, std::string_view text, bool ensure_ascii, std::string* out) {
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size()));
  out->push_back('"');
  uint32_t c;
  for (size_t at = 0; at < text.size();) {
    const size_t length = DecodeAt(text, at, &c);
    static constexpr std::string_view kSpecial = "\"\\\n\r\t\b\f";
    static constexpr std::string_view kLetters = "\"\\nrtbf";
    const size_t special = c < 0x80 ? kSpecial.find(static_cast<char>(c)) : std::string_view::npos;
    if (special != std::string_view::npos) {
      out->push_back('\\');
      out->push_back(kLetters[special]);
    } else if (c < 0x20 || (ensure_ascii && c > 0x7E && c < 0x10000)) {
      absl::StrAppendFormat(out, "\\u%04x", c);
    } else if (ensure_ascii && c >= 0x10000) {
      absl::StrAppendFormat(out, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10),
                            0xDC00 + ((c - 0x10000) & 0x3FF));
    } else {
      out->append(text.substr(at, length));
    }
    at += length;
  }
  out->push_back('"');
  return runtime.CheckSize(out->size());
}

std::string JsonFloat(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  return FloatRepr(value);
}

absl::StatusOr<std::string> JsonKey(const Value& key) {
  switch (key.kind()) {
    case Value::Kind::kString:
      return key.AsString();
    case Value::Kind::kBool:
      return std::string(key.AsBool() ? "true" : "false");
    case Value::Kind::kInt:
      return StrCat(key.AsInt());
    case Value::Kind::kFloat:
      return JsonFloat(key.AsDouble());
    case Value::Kind::kNone:
      return std::string("null");
    default:
      return TypeError(StrCat("keys must be str, int, float, bool or None, not ", key.TypeName()));
  }
}

absl::Status NewLine(Runtime& runtime, const JsonFormat& format, int level, std::string* out) {
  if (!format.indented) return absl::OkStatus();
  const size_t bytes = format.indent.size() * static_cast<size_t>(level);
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(bytes));
  out->push_back('\n');
  for (int i = 0; i < level; ++i) out->append(format.indent);
  return runtime.CheckSize(out->size());
}

absl::Status AppendJsonDict(Runtime& runtime, const DictData& dict, const JsonFormat& format, int level,
                            std::string* out) {
  std::vector<size_t> order(dict.entries.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (format.sort_keys) {
    for (const auto& [key, item] : dict.entries) {
      if (key.IsString() != dict.entries[0].first.IsString() || key.IsNone()) {
        return TypeError("sort_keys needs keys of one kind");
      }
    }
    MOEPOOL_RETURN_IF_ERROR(runtime.Charge(static_cast<int64_t>(order.size()) * 8));
    std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) {
      const Value &a = dict.entries[i].first, &b = dict.entries[j].first;
      return a.IsString() ? a.AsString() < b.AsString() : a.AsDouble() < b.AsDouble();
    });
  }
  if (order.empty()) {
    out->append("{}");
    return absl::OkStatus();
  }
  out->push_back('{');
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0) out->append(format.item_separator);
    MOEPOOL_RETURN_IF_ERROR(NewLine(runtime, format, level + 1, out));
    const auto& [key, item] = dict.entries[order[i]];
    MOEPOOL_ASSIGN_OR_RETURN(const std::string name, JsonKey(key));
    MOEPOOL_RETURN_IF_ERROR(AppendJsonString(runtime, name, format.ensure_ascii, out));
    out->append(format.key_separator);
    MOEPOOL_RETURN_IF_ERROR(AppendJson(runtime, item, format, level + 1, out));
  }
  MOEPOOL_RETURN_IF_ERROR(NewLine(runtime, format, level, out));
  out->push_back('}');
  return absl::OkStatus();
}

}  // namespace

absl::Status AppendJson(Runtime& runtime, const Value& value, const JsonFormat& format, int level,
                        std::string* out) {
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(1));
  MOEPOOL_RETURN_IF_ERROR(runtime.CheckSize(out->size()));
  switch (value.kind()) {
    case Value::Kind::kNone:
      out->append("null");
      return absl::OkStatus();
    case Value::Kind::kBool:
      out->append(value.AsBool() ? "true" : "false");
      return absl::OkStatus();
    case Value::Kind::kInt:
      StrAppend(out, value.AsInt());
      return absl::OkStatus();
    case Value::Kind::kFloat:
      out->append(JsonFloat(value.AsDouble()));
      return absl::OkStatus();
    case Value::Kind::kString:
      return AppendJsonString(runtime, value.AsString(), format.ensure_ascii, out);
    case Value::Kind::kDict:
      return AppendJsonDict(runtime, value.AsDict(), format, level, out);
    case Value::Kind::kList: {
      const ListData& list = value.AsList();
      if (list.kind > ListKind::kGroup) break;
      if (list.items.empty()) {
        out->append("[]");
        return absl::OkStatus();
      }
      out->push_back('[');
      for (size_t i = 0; i < list.items.size(); ++i) {
        if (i > 0) out->append(format.item_separator);
        MOEPOOL_RETURN_IF_ERROR(NewLine(runtime, format, level + 1, out));
        MOEPOOL_RETURN_IF_ERROR(AppendJson(runtime, list.items[i], format, level + 1, out));
      }
      MOEPOOL_RETURN_IF_ERROR(NewLine(runtime, format, level, out));
      out->push_back(']');
      return absl::OkStatus();
    }
    default:
      break;
  }
  return TypeError(StrCat("object of type ", value.TypeName(), " is not JSON serializable"));
}

}  // namespace moepool::jinja
