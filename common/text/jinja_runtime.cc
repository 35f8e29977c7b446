#include "common/text/jinja_runtime.h"

#include <algorithm>
#include <cstring>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_unicode.h"

namespace moepool::jinja {
namespace {

class Iterator : public Object {
 public:
  explicit Iterator(std::vector<Value> items) : items_(std::move(items)) {}
  std::string_view TypeName() const override { return "generator"; }
  bool IsIterable() const override { return true; }
  absl::StatusOr<std::vector<Value>> TakeItems(Runtime&) override { return std::exchange(items_, {}); }

 private:
  std::vector<Value> items_;
};

// The value of a[start:stop:step]'s bounds over `length` items, as slice.indices computes them.
struct Range {
  int64_t start, step, count;
};

absl::StatusOr<Range> ResolveSlice(const Value& start, const Value& stop, const Value& step, int64_t length) {
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->IsNone() && !bound->IsIntegral()) return TypeError("slice indices must be integers or None");
  }
  const int64_t by = step.IsNone() ? 1 : step.AsInt();
  if (by == 0) return TypeError("slice step cannot be zero");
  const int64_t low = by < 0 ? -1 : 0, high = by < 0 ? length - 1 : length;
  auto resolve = [&](const Value& bound, int64_t otherwise) {
    if (bound.IsNone()) return otherwise;
    int64_t index = bound.AsInt();
    if (index < 0) index += length;
    return std::clamp(index, low, high);
  };
  const int64_t first = resolve(start, by < 0 ? high : low);
  const int64_t last = resolve(stop, by < 0 ? low : high);
  int64_t count = 0;
  if (by > 0 && last > first) count = (last - first - 1) / by + 1;
  // Negating the smallest integer would overflow; divide by it instead.
  if (by < 0 && first > last) count = (last - first + 1) / by + 1;
  return Range{first, by, count};
}

Value NoElement(const Value& value, const Value& key) {
  const std::string text = key.IsString() ? StrCat("'", key.AsString(), "'") : std::string(key.TypeName());
  return Value::Undefined(StrCat("'", value.TypeName(), " object' has no element ",
                                 key.IsIntegral() ? StrCat(key.AsInt()) : text));
}

absl::StatusOr<Value> BindMethod(Runtime& runtime, const Value& self, std::string_view name,
                                 BuiltinFilter method) {
  MOEPOOL_ASSIGN_OR_RETURN(
      Function * function,
      runtime.New<Function>(std::string(name),
                            [self, method](Runtime& r, const Args& args) { return method(r, self, args); }));
  return Value(static_cast<Object*>(function));
}

}  // namespace

absl::Status UndefinedError(const Value& value) {
  return absl::InvalidArgumentError(value.UndefinedReason());
}

absl::Status TypeError(std::string_view cause) { return absl::InvalidArgumentError(ToAbsl(cause)); }

absl::Status Runtime::Charge(int64_t steps) {
  if (steps <= steps_left_) {
    steps_left_ -= steps;
    return absl::OkStatus();
  }
  steps_left_ = 0;
  return absl::ResourceExhaustedError(StrCat("takes more than ", limits_.steps, " steps"));
}

absl::Status Runtime::ChargeBytes(size_t bytes) {
  MOEPOOL_RETURN_IF_ERROR(CheckSize(bytes));
  return Charge(static_cast<int64_t>(bytes / 32));
}

absl::Status Runtime::CheckSize(size_t bytes) const {
  if (bytes <= limits_.output_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(StrCat("makes a text of more than ", limits_.output_bytes, " bytes"));
}

absl::Status Runtime::Level::Check() const {
  if (runtime_.level_ <= runtime_.limits_.depth * kLevelsOfDepth) return absl::OkStatus();
  return absl::ResourceExhaustedError("recursion is too deep");
}

absl::StatusOr<Value> Runtime::NewString(std::string text, bool markup) {
  MOEPOOL_RETURN_IF_ERROR(ChargeBytes(text.size()));
  return Value::String(std::move(text), markup);
}

absl::StatusOr<Value> Runtime::NewList(std::vector<Value> items, ListKind kind) {
  MOEPOOL_RETURN_IF_ERROR(Charge(static_cast<int64_t>(items.size())));
  int depth = 1;
  for (const Value& item : items) depth = std::max(depth, item.Depth() + 1);
  if (depth > limits_.depth) {
    return absl::ResourceExhaustedError(
        StrCat("makes lists nested more than ", limits_.depth, " levels deep"));
  }
  return Value(std::make_shared<const ListData>(ListData{kind, depth, std::move(items)}));
}

absl::StatusOr<Value> Runtime::NewDict(std::vector<std::pair<Value, Value>> entries) {
  MOEPOOL_RETURN_IF_ERROR(Charge(static_cast<int64_t>(entries.size())));
  auto dict = std::make_shared<DictData>();
  for (auto& [key, value] : entries) {
    std::string encoded;
    MOEPOOL_RETURN_IF_ERROR(EncodeKey(*this, key, &encoded));
    dict->depth = std::max({dict->depth, key.Depth() + 1, value.Depth() + 1});
    const auto [it, inserted] = dict->index.emplace(std::move(encoded), dict->entries.size());
    if (inserted) {
      dict->entries.emplace_back(std::move(key), std::move(value));
    } else {
      dict->entries[it->second].second = std::move(value);
    }
  }
  if (dict->depth > limits_.depth) {
    return absl::ResourceExhaustedError(
        StrCat("makes dicts nested more than ", limits_.depth, " levels deep"));
  }
  return Value(std::shared_ptr<const DictData>(std::move(dict)));
}

absl::StatusOr<Value> Runtime::NewIterator(std::vector<Value> items) {
  MOEPOOL_RETURN_IF_ERROR(Charge(static_cast<int64_t>(items.size())));
  MOEPOOL_ASSIGN_OR_RETURN(Object * iterator, New<Iterator>(std::move(items)));
  return Value(iterator);
}

absl::StatusOr<std::vector<Value>> Items(Runtime& runtime, const Value& value) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return items;
    case Value::Kind::kList:
      MOEPOOL_RETURN_IF_ERROR(runtime.Charge(static_cast<int64_t>(value.AsList().items.size())));
      return value.AsList().items;
    case Value::Kind::kDict:
      MOEPOOL_RETURN_IF_ERROR(runtime.Charge(static_cast<int64_t>(value.AsDict().entries.size())));
      for (const auto& [key, item] : value.AsDict().entries) items.push_back(key);
      return items;
    case Value::Kind::kString: {
      const std::string_view text = value.AsString();
      MOEPOOL_RETURN_IF_ERROR(runtime.Charge(static_cast<int64_t>(text.size())));
      for (size_t at = 0; at < text.size();) {
        const size_t length = DecodeAt(text, at);
        items.push_back(Value::String(std::string(text.substr(at, length)), value.IsMarkup()));
        at += length;
      }
      return items;
    }
    case Value::Kind::kObject:
      return value.AsObject()->TakeItems(runtime);
    default:
      return TypeError(StrCat("'", value.TypeName(), "' object is not iterable"));
  }
}

absl::StatusOr<int64_t> Length(Runtime& runtime, const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return 0;
    case Value::Kind::kString:
      MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(value.AsString().size()));
      return CountCodePoints(value.AsString());
    case Value::Kind::kList:
      return static_cast<int64_t>(value.AsList().items.size());
    case Value::Kind::kDict:
      return static_cast<int64_t>(value.AsDict().entries.size());
    case Value::Kind::kObject:
      return value.AsObject()->Length(runtime);
    default:
      return TypeError(StrCat("object of type '", value.TypeName(), "' has no len()"));
  }
}

absl::StatusOr<bool> Contains(Runtime& runtime, const Value& container, const Value& item) {
  if (container.IsString()) {
    if (!item.IsString()) {
      return TypeError(StrCat("'in <string>' requires string as left operand, not ", item.TypeName()));
    }
    MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(container.AsString().size()));
    return FindText(container.AsString(), item.AsString(), 0) != std::string_view::npos;
  }
  if (container.IsDict()) {
    std::string key;
    MOEPOOL_RETURN_IF_ERROR(EncodeKey(runtime, item, &key));
    return container.AsDict().index.count(key) > 0;
  }
  if (container.IsNumber() || container.IsNone()) {
    return TypeError(StrCat("argument of type '", container.TypeName(), "' is not iterable"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, container));
  for (const Value& candidate : items) {
    MOEPOOL_ASSIGN_OR_RETURN(const bool equal, Equal(runtime, candidate, item));
    if (equal) return true;
  }
  return false;
}

absl::StatusOr<Value> GetAttribute(Runtime& runtime, const Value& value, std::string_view name) {
  if (value.IsUndefined()) return UndefinedError(value);
  if (value.IsObject()) return value.AsObject()->GetAttribute(runtime, name);
  if (value.IsDict() || value.IsList() || value.IsString()) {
    const BuiltinFilter method = value.IsDict()   ? FindDictMethod(name)
                                 : value.IsList() ? FindListMethod(name)
                                                  : FindStringMethod(name);
    if (method != nullptr) return BindMethod(runtime, value, name, method);
    if (IsMutator(value, name)) {
      return Value::Undefined(
          StrCat("access to attribute '", name, "' of '", value.TypeName(), "' object is unsafe"));
    }
  }
  if (value.IsDict()) {
    if (const Value* item = value.AsDict().Find(name)) return *item;
  }
  if (value.IsList() && value.AsList().kind == ListKind::kGroup && (name == "grouper" || name == "list")) {
    return value.AsList().items[name == "grouper" ? 0 : 1];
  }
  if (value.IsNone()) return Value::Undefined(StrCat("'None' has no attribute '", name, "'"));
  return Value::Undefined(StrCat("'", value.TypeName(), " object' has no attribute '", name, "'"));
}

absl::StatusOr<Value> GetItem(Runtime& runtime, const Value& value, const Value& key) {
  if (value.IsUndefined()) return UndefinedError(value);
  if (value.IsDict() && !key.IsList() && !key.IsDict()) {
    std::string encoded;
    MOEPOOL_RETURN_IF_ERROR(EncodeKey(runtime, key, &encoded));
    const DictData& dict = value.AsDict();
    const auto it = dict.index.find(encoded);
    if (it != dict.index.end()) return dict.entries[it->second].second;
  }
  if (key.IsIntegral() && (value.IsList() || value.IsString())) {
    MOEPOOL_ASSIGN_OR_RETURN(const int64_t length, Length(runtime, value));
    const int64_t index = key.AsInt() < 0 ? key.AsInt() + length : key.AsInt();
    if (index < 0 || index >= length || (value.IsList() && value.AsList().kind > ListKind::kRange)) {
      return NoElement(value, key);
    }
    if (value.IsList()) return value.AsList().items[static_cast<size_t>(index)];
    const std::string& text = value.AsString();
    const size_t at =
        static_cast<size_t>(length) == text.size() ? static_cast<size_t>(index) : ByteOffset(text, index);
    return Value::String(text.substr(at, DecodeAt(text, at)), value.IsMarkup());
  }
  if (key.IsString()) return GetAttribute(runtime, value, key.AsString());
  return NoElement(value, key);
}

absl::StatusOr<Value> GetSlice(Runtime& runtime, const Value& value, const Value& start, const Value& stop,
                               const Value& step) {
  if (value.IsUndefined()) return UndefinedError(value);
  const bool sequence = value.IsString() || (value.IsList() && value.AsList().kind <= ListKind::kRange);
  if (!sequence) return Value::Undefined(StrCat("'", value.TypeName(), " object' has no slices"));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t length, Length(runtime, value));
  MOEPOOL_ASSIGN_OR_RETURN(const Range range, ResolveSlice(start, stop, step, length));
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(value.IsString() && range.step == 1 ? 0 : range.count));
  if (value.IsList()) {
    std::vector<Value> items;
    items.reserve(static_cast<size_t>(range.count));
    for (int64_t i = 0; i < range.count; ++i) {
      items.push_back(value.AsList().items[static_cast<size_t>(range.start + i * range.step)]);
    }
    const ListKind kind = value.AsList().kind;
    return runtime.NewList(std::move(items), kind == ListKind::kList || kind == ListKind::kRange
                                                 ? ListKind::kList
                                                 : ListKind::kTuple);
  }
  const std::string& text = value.AsString();
  if (range.step == 1) {
    const size_t first = ByteOffset(text, range.start);
    const size_t bytes = ByteOffset(std::string_view(text).substr(first), range.count);
    return runtime.NewString(text.substr(first, bytes), value.IsMarkup());
  }
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(static_cast<int64_t>(text.size() / 8)));
  std::vector<size_t> offsets;
  for (size_t at = 0; at < text.size(); at += DecodeAt(text, at)) offsets.push_back(at);
  std::string out;
  for (int64_t i = 0; i < range.count; ++i) {
    const size_t at = offsets[static_cast<size_t>(range.start + i * range.step)];
    out.append(text, at, DecodeAt(text, at));
  }
  return runtime.NewString(std::move(out), value.IsMarkup());
}

absl::StatusOr<Value> CallValue(Runtime& runtime, const Value& callee, const Args& args) {
  if (callee.IsUndefined()) return UndefinedError(callee);
  if (!callee.IsObject()) return TypeError(StrCat("'", callee.TypeName(), "' object is not callable"));
  const Runtime::Level level(runtime);
  MOEPOOL_RETURN_IF_ERROR(level.Check());
  return callee.AsObject()->Call(runtime, args);
}

}  // namespace moepool::jinja
