#include "common/text/jinja_builtins.h"

#include <algorithm>
#include <array>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/text/jinja_strings.h"

namespace moepool::jinja {

BuiltinFilter FindFilter(std::string_view name) {
  if (const BuiltinFilter filter = FindTextFilter(name)) return filter;
  if (const BuiltinFilter filter = FindListFilter(name)) return filter;
  return FindSelectFilter(name);
}

bool IsMutator(const Value& value, std::string_view name) {
  static constexpr std::array<std::string_view, 8> kList = {"append", "clear",  "extend",  "insert",
                                                            "pop",    "remove", "reverse", "sort"};
  static constexpr std::array<std::string_view, 5> kDict = {"clear", "pop", "popitem", "setdefault",
                                                            "update"};
  if (value.IsDict()) return std::find(kDict.begin(), kDict.end(), name) != kDict.end();
  if (!value.IsList() || value.AsList().kind != ListKind::kList) return false;
  return std::find(kList.begin(), kList.end(), name) != kList.end();
}

absl::Status Function::AppendRepr(Runtime&, std::string* out) const {
  StrAppend(out, "<function ", name_, ">");
  return absl::OkStatus();
}

absl::Status Namespace::AppendRepr(Runtime& runtime, std::string* out) const {
  out->append("<Namespace {");
  for (size_t i = 0; i < attributes_.size(); ++i) {
    if (i > 0) out->append(", ");
    MOEPOOL_RETURN_IF_ERROR(jinja::AppendRepr(runtime, Value::String(attributes_[i].first), out));
    out->append(": ");
    MOEPOOL_RETURN_IF_ERROR(jinja::AppendRepr(runtime, attributes_[i].second, out));
  }
  out->append("}>");
  return absl::OkStatus();
}

absl::StatusOr<Value> Namespace::GetAttribute(Runtime& runtime, std::string_view name) {
  const auto it = index_.find(name);
  return it == index_.end() ? Object::GetAttribute(runtime, name) : attributes_[it->second].second;
}

absl::Status Namespace::Set(std::string_view name, Value value) {
  if (name.starts_with("_")) return TypeError(StrCat("a namespace holds no attribute '", name, "'"));
  const auto [it, inserted] = index_.emplace(std::string(name), attributes_.size());
  if (inserted) {
    attributes_.emplace_back(std::string(name), std::move(value));
  } else {
    attributes_[it->second].second = std::move(value);
  }
  return absl::OkStatus();
}

absl::StatusOr<BoundArgs> BoundArgs::Bind(const Args& args, std::initializer_list<std::string_view> names,
                                          size_t required) {
  BoundArgs bound;
  bound.names_.assign(names.begin(), names.end());
  bound.values_.assign(names.size(), nullptr);
  if (args.positional.size() > names.size()) {
    return TypeError(
        StrCat("takes at most ", names.size(), " argument(s), ", args.positional.size(), " given"));
  }
  for (size_t i = 0; i < args.positional.size(); ++i) bound.values_[i] = &args.positional[i];
  for (const auto& [name, value] : args.named) {
    const auto it = std::find(names.begin(), names.end(), name);
    if (it == names.end()) return TypeError(StrCat("unexpected keyword argument '", name, "'"));
    const Value*& slot = bound.values_[static_cast<size_t>(it - names.begin())];
    if (slot != nullptr) return TypeError(StrCat("multiple values for argument '", name, "'"));
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!bound.Has(i)) return TypeError(StrCat("missing argument '", bound.names_[i], "'"));
  }
  return bound;
}

absl::StatusOr<int64_t> BoundArgs::Int(size_t i, int64_t otherwise) const {
  if (!Has(i)) return otherwise;
  if (values_[i]->IsUndefined()) return UndefinedError(*values_[i]);
  if (values_[i]->IsIntegral()) return values_[i]->AsInt();
  return TypeError(StrCat("argument '", names_[i], "' is a ", values_[i]->TypeName(), ", not an integer"));
}

absl::StatusOr<std::string> BoundArgs::String(size_t i, std::string_view otherwise) const {
  if (!Has(i)) return std::string(otherwise);
  if (values_[i]->IsUndefined()) return UndefinedError(*values_[i]);
  if (values_[i]->IsString()) return values_[i]->AsString();
  return TypeError(StrCat("argument '", names_[i], "' is a ", values_[i]->TypeName(), ", not a string"));
}

absl::StatusOr<Value> CallFilter(Runtime& runtime, const std::string& name, const Value& input,
                                 const Args& args) {
  const Runtime::Level level(runtime);
  MOEPOOL_RETURN_IF_ERROR(level.Check());
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(1 + static_cast<int64_t>(args.positional.size())));
  const BuiltinFilter filter = FindFilter(name);
  if (filter == nullptr) return TypeError(StrCat("no filter named '", name, "'"));
  return filter(runtime, input, args);
}

absl::StatusOr<bool> CallTest(Runtime& runtime, const std::string& name, const Value& input,
                              const Args& args) {
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(1));
  const BuiltinTest test = FindTest(name);
  if (test == nullptr) return TypeError(StrCat("no test named '", name, "'"));
  return test(runtime, input, args);
}

absl::StatusOr<Value> GetPath(Runtime& runtime, const Value& value, const Value& path,
                              const Value* otherwise) {
  Value current = value;
  if (path.IsString()) {
    MOEPOOL_RETURN_IF_ERROR(runtime.Charge(1 + static_cast<int64_t>(path.AsString().size() / 4)));
    for (const std::string& part : std::vector<std::string>(absl::StrSplit(path.AsString(), '.'))) {
      int64_t index = 0;
      const bool is_index = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos &&
                            absl::SimpleAtoi(part, &index);
      const Value key = is_index ? Value(index) : Value::String(part);
      MOEPOOL_ASSIGN_OR_RETURN(current, GetItem(runtime, current, key));
      if (otherwise != nullptr && current.IsUndefined()) current = *otherwise;
    }
    return current;
  }
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(1));
  MOEPOOL_ASSIGN_OR_RETURN(current, GetItem(runtime, current, path));
  if (otherwise != nullptr && current.IsUndefined()) current = *otherwise;
  return current;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace moepool::jinja
