#include "common/text/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/text/jinja_runtime.h"
#include "common/text/jinja_strings.h"
#include "common/text/jinja_unicode.h"

namespace moepool::jinja {
namespace {

// -1, 0 or 1; 2 where unordered (NaN).
int CompareNumbers(const Value& a, const Value& b) {
  if (a.IsIntegral() && b.IsIntegral()) return a.AsInt() < b.AsInt() ? -1 : a.AsInt() > b.AsInt();
  const double x = a.AsDouble(), y = b.AsDouble();
  if (std::isnan(x) || std::isnan(y)) return 2;
  return x < y ? -1 : x > y;
}

bool IsTuple(const ListData& list) { return list.kind == ListKind::kTuple || list.kind == ListKind::kGroup; }

bool SameSequenceType(const ListData& a, const ListData& b) {
  return a.kind == b.kind || (IsTuple(a) && IsTuple(b));
}

absl::Status AppendStringRepr(Runtime& runtime, std::string_view text, std::string* out) {
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size()));
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  out->push_back(quote);
  uint32_t c;
  for (size_t at = 0; at < text.size();) {
    const size_t length = DecodeAt(text, at, &c);
    if (c == '\\' || c == static_cast<uint32_t>(quote)) {
      out->push_back('\\');
      out->push_back(static_cast<char>(c));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out->append(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
    } else if (IsPrintable(c)) {
      out->append(text.substr(at, length));
    } else if (c < 0x100) {
      absl::StrAppendFormat(out, "\\x%02x", c);
    } else if (c < 0x10000) {
      absl::StrAppendFormat(out, "\\u%04x", c);
    } else {
      absl::StrAppendFormat(out, "\\U%08x", c);
    }
    at += length;
  }
  out->push_back(quote);
  return runtime.CheckSize(out->size());
}

absl::Status AppendItems(Runtime& runtime, const std::vector<Value>& items, std::string* out) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out->append(", ");
    MOEPOOL_RETURN_IF_ERROR(AppendRepr(runtime, items[i], out));
  }
  return absl::OkStatus();
}

absl::Status AppendListRepr(Runtime& runtime, const ListData& list, std::string* out) {
  switch (list.kind) {
    case ListKind::kRange:
      StrAppend(out, "range(", list.start, ", ", list.stop);
      if (list.step != 1) StrAppend(out, ", ", list.step);
      out->append(")");
      return absl::OkStatus();
    case ListKind::kTuple:
    case ListKind::kGroup:
      out->append("(");
      MOEPOOL_RETURN_IF_ERROR(AppendItems(runtime, list.items, out));
      out->append(list.items.size() == 1 ? ",)" : ")");
      return absl::OkStatus();
    default: {
      const bool plain = list.kind == ListKind::kList;
      if (!plain) {
        out->append(list.kind == ListKind::kDictKeys     ? "dict_keys("
                    : list.kind == ListKind::kDictValues ? "dict_values("
                                                         : "dict_items(");
      }
      out->append("[");
      MOEPOOL_RETURN_IF_ERROR(AppendItems(runtime, list.items, out));
      out->append(plain ? "]" : "])");
      return absl::OkStatus();
    }
  }
}

}  // namespace

Value Value::Undefined(std::string why) {
  Value v;
  v.data_ = std::make_shared<const std::string>(std::move(why));
  return v;
}

std::string Value::UndefinedReason() const {
  const auto& why = std::get<std::shared_ptr<const std::string>>(data_);
  return why == nullptr ? "value is undefined" : *why;
}

std::string_view Value::TypeName() const {
  switch (kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return IsMarkup() ? "Markup" : "str";
    case Kind::kDict:
      return "dict";
    case Kind::kObject:
      return AsObject()->TypeName();
    case Kind::kList:
      break;
  }
  switch (AsList().kind) {
    case ListKind::kList:
      return "list";
    case ListKind::kTuple:
      return "tuple";
    case ListKind::kGroup:
      return "_GroupTuple";
    case ListKind::kRange:
      return "range";
    case ListKind::kDictKeys:
      return "dict_keys";
    case ListKind::kDictValues:
      return "dict_values";
    case ListKind::kDictItems:
      return "dict_items";
  }
  return "list";
}

int Value::Depth() const { return IsList() ? AsList().depth : IsDict() ? AsDict().depth : 0; }

bool Value::IsSame(const Value& other) const { return data_ == other.data_; }

const Value* DictData::Find(std::string_view string_key) const {
  if (index.empty()) return nullptr;
  const auto it = index.find(StrCat("s", string_key));
  return it == index.end() ? nullptr : &entries[it->second].second;
}

absl::Status Object::AppendRepr(Runtime&, std::string* out) const {
  StrAppend(out, "<", TypeName(), " object>");
  return absl::OkStatus();
}

absl::StatusOr<Value> Object::GetAttribute(Runtime&, std::string_view name) {
  return Value::Undefined(StrCat("'", TypeName(), " object' has no attribute '", name, "'"));
}

absl::StatusOr<Value> Object::Call(Runtime&, const Args&) {
  return TypeError(StrCat("'", TypeName(), "' object is not callable"));
}

absl::StatusOr<std::vector<Value>> Object::TakeItems(Runtime&) {
  return TypeError(StrCat("'", TypeName(), "' object is not iterable"));
}

absl::StatusOr<int64_t> Object::Length(Runtime&) const {
  return TypeError(StrCat("object of type '", TypeName(), "' has no len()"));
}

bool IsTrue(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
    case Value::Kind::kNone:
      return false;
    case Value::Kind::kBool:
      return value.AsBool();
    case Value::Kind::kInt:
      return value.AsInt() != 0;
    case Value::Kind::kFloat:
      return value.AsDouble() != 0;
    case Value::Kind::kString:
      return !value.AsString().empty();
    case Value::Kind::kList:
      return !value.AsList().items.empty();
    case Value::Kind::kDict:
      return !value.AsDict().entries.empty();
    case Value::Kind::kObject:
      return true;
  }
  return true;
}

absl::StatusOr<bool> Equal(Runtime& runtime, const Value& a, const Value& b) {
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(1));
  if (a.IsNumber() && b.IsNumber()) return CompareNumbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Value::Kind::kUndefined:
      return true;
    case Value::Kind::kString:
      if (a.AsString().size() != b.AsString().size()) return false;
      MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(a.AsString().size()));
      return a.AsString() == b.AsString();
    case Value::Kind::kList: {
      const ListData &x = a.AsList(), &y = b.AsList();
      if (!SameSequenceType(x, y) || x.items.size() != y.items.size()) return false;
      for (size_t i = 0; i < x.items.size(); ++i) {
        MOEPOOL_ASSIGN_OR_RETURN(const bool equal, Equal(runtime, x.items[i], y.items[i]));
        if (!equal) return false;
      }
      return true;
    }
    case Value::Kind::kDict: {
      const DictData &x = a.AsDict(), &y = b.AsDict();
      if (x.entries.size() != y.entries.size()) return false;
      for (const auto& [key, position] : x.index) {
        const auto it = y.index.find(key);
        if (it == y.index.end()) return false;
        MOEPOOL_ASSIGN_OR_RETURN(const bool equal,
                                 Equal(runtime, x.entries[position].second, y.entries[it->second].second));
        if (!equal) return false;
      }
      return true;
    }
    default:
      return a.IsSame(b);
  }
}

absl::StatusOr<int> Compare(Runtime& runtime, const Value& a, const Value& b) {
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(1));
  if (a.IsUndefined()) return UndefinedError(a);
  if (b.IsUndefined()) return UndefinedError(b);
  if (a.IsNumber() && b.IsNumber()) return CompareNumbers(a, b);
  if (a.IsString() && b.IsString()) {
    MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(std::min(a.AsString().size(), b.AsString().size())));
    return a.AsString().compare(b.AsString());  // the order of bytes is that of code points
  }
  if (a.IsList() && b.IsList() && SameSequenceType(a.AsList(), b.AsList()) &&
      a.AsList().kind <= ListKind::kGroup) {
    const auto &x = a.AsList().items, &y = b.AsList().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      MOEPOOL_ASSIGN_OR_RETURN(const bool equal, Equal(runtime, x[i], y[i]));
      if (!equal) return Compare(runtime, x[i], y[i]);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  return TypeError(StrCat("'", a.TypeName(), "' and '", b.TypeName(), "' have no order"));
}

absl::Status EncodeKey(Runtime& runtime, const Value& key, std::string* out) {
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(1));
  switch (key.kind()) {
    case Value::Kind::kNone:
      out->append("n");
      return absl::OkStatus();
    case Value::Kind::kUndefined:
      out->append("u");
      return absl::OkStatus();
    case Value::Kind::kBool:
    case Value::Kind::kInt:
      StrAppend(out, "i", key.AsInt());
      return absl::OkStatus();
    case Value::Kind::kFloat: {
      const double v = key.AsDouble();
      if (std::trunc(v) == v && std::fabs(v) < 0x1p63) {
        StrAppend(out, "i", static_cast<int64_t>(v));
      } else {
        StrAppend(out, "f", FloatRepr(v));
      }
      return absl::OkStatus();
    }
    case Value::Kind::kString:
      MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(key.AsString().size()));
      StrAppend(out, "s", key.AsString());
      return absl::OkStatus();
    case Value::Kind::kObject:
      StrAppend(out, "o", reinterpret_cast<uintptr_t>(key.AsObject()));
      return absl::OkStatus();
    case Value::Kind::kList:
      if (IsTuple(key.AsList())) {
        out->append("t");
        for (const Value& item : key.AsList().items) {
          std::string part;
          MOEPOOL_RETURN_IF_ERROR(EncodeKey(runtime, item, &part));
          MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(part.size() + out->size()));
          StrAppend(out, part.size(), ":", part);
        }
        return absl::OkStatus();
      }
      break;
    case Value::Kind::kDict:
      break;
  }
  return TypeError(StrCat("unhashable type: '", key.TypeName(), "'"));
}

// The shortest digits that read back as the same number, in Python's layout.
std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  int exponent = 0;
  const std::string_view exponent_text = text.substr(text[e + 1] == '+' ? e + 2 : e + 1);
  std::from_chars(exponent_text.data(), exponent_text.data() + exponent_text.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(text);  // to_chars pads the exponent as Python does
  const bool negative = text[0] == '-';
  std::string digits;
  for (char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits.push_back(c);
  }
  std::string out = negative ? "-" : "";
  if (exponent < 0) return StrCat(out, "0.", std::string(static_cast<size_t>(-exponent - 1), '0'), digits);
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() < whole) digits.append(whole - digits.size(), '0');
  const std::string fraction = digits.substr(whole);
  return StrCat(out, digits.substr(0, whole), ".", fraction.empty() ? "0" : fraction);
}

absl::StatusOr<std::string> ToText(Runtime& runtime, const Value& value) {
  std::string out;
  MOEPOOL_RETURN_IF_ERROR(AppendText(runtime, value, &out));
  return out;
}

absl::Status AppendText(Runtime& runtime, const Value& value, std::string* out) {
  if (value.IsUndefined()) return absl::OkStatus();
  if (!value.IsString()) return AppendRepr(runtime, value, out);
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(value.AsString().size()));
  out->append(value.AsString());
  return runtime.CheckSize(out->size());
}

absl::Status AppendRepr(Runtime& runtime, const Value& value, std::string* out) {
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(1));
  const Runtime::Level level(runtime);
  MOEPOOL_RETURN_IF_ERROR(level.Check());
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      out->append("Undefined");
      break;
    case Value::Kind::kNone:
      out->append("None");
      break;
    case Value::Kind::kBool:
      out->append(value.AsBool() ? "True" : "False");
      break;
    case Value::Kind::kInt:
      StrAppend(out, value.AsInt());
      break;
    case Value::Kind::kFloat:
      out->append(FloatRepr(value.AsDouble()));
      break;
    case Value::Kind::kString:
      if (value.IsMarkup()) out->append("Markup(");
      MOEPOOL_RETURN_IF_ERROR(AppendStringRepr(runtime, value.AsString(), out));
      if (value.IsMarkup()) out->append(")");
      break;
    case Value::Kind::kList:
      MOEPOOL_RETURN_IF_ERROR(AppendListRepr(runtime, value.AsList(), out));
      break;
    case Value::Kind::kDict: {
      out->append("{");
      bool first = true;
      for (const auto& [key, item] : value.AsDict().entries) {
        if (!first) out->append(", ");
        first = false;
        MOEPOOL_RETURN_IF_ERROR(AppendRepr(runtime, key, out));
        out->append(": ");
        MOEPOOL_RETURN_IF_ERROR(AppendRepr(runtime, item, out));
      }
      out->append("}");
      break;
    }
    case Value::Kind::kObject:
      MOEPOOL_RETURN_IF_ERROR(value.AsObject()->AppendRepr(runtime, out));
      break;
  }
  return runtime.CheckSize(out->size());
}

}  // namespace moepool::jinja
