// Methods of list, tuple and dict that change nothing.
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/jinja_builtins.h"

namespace moepool::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

ValueOr ListIndex(Runtime& runtime, const Value& self, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"value", "start", "stop"}, 1));
  const std::vector<Value>& items = self.AsList().items;
  const int64_t length = static_cast<int64_t>(items.size());
  MOEPOOL_ASSIGN_OR_RETURN(int64_t start, bound.Int(1, 0));
  MOEPOOL_ASSIGN_OR_RETURN(int64_t stop, bound.Int(2, length));
  if (start < 0) start = std::max<int64_t>(start + length, 0);
  if (stop < 0) stop += length;
  for (int64_t i = start; i < std::min(stop, length); ++i) {
    MOEPOOL_ASSIGN_OR_RETURN(const bool equal, Equal(runtime, items[static_cast<size_t>(i)], bound[0]));
    if (equal) return Value(i);
  }
  return TypeError("the value is not in the list");
}

ValueOr ListCount(Runtime& runtime, const Value& self, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"value"}, 1));
  int64_t count = 0;
  for (const Value& item : self.AsList().items) {
    MOEPOOL_ASSIGN_OR_RETURN(const bool equal, Equal(runtime, item, bound[0]));
    count += equal;
  }
  return Value(count);
}

// Values never change, so a copy is the value itself.
ValueOr Copy(Runtime&, const Value& self, const Args& args) {
  MOEPOOL_RETURN_IF_ERROR(BoundArgs::Bind(args, {}).status());
  return self;
}

ValueOr DictGet(Runtime& runtime, const Value& self, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"key", "default"}, 1));
  std::string key;
  MOEPOOL_RETURN_IF_ERROR(EncodeKey(runtime, bound[0], &key));
  const DictData& dict = self.AsDict();
  const auto it = dict.index.find(key);
  return it != dict.index.end() ? dict.entries[it->second].second : bound.Or(1, Value::None());
}

ValueOr DictView(Runtime& runtime, const Value& self, const Args& args, ListKind kind) {
  MOEPOOL_RETURN_IF_ERROR(BoundArgs::Bind(args, {}).status());
  const auto& entries = self.AsDict().entries;
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(static_cast<int64_t>(entries.size())));
  std::vector<Value> items;
  items.reserve(entries.size());
  for (const auto& [key, value] : entries) {
    if (kind == ListKind::kDictItems) {
      MOEPOOL_ASSIGN_OR_RETURN(Value pair, runtime.NewList({key, value}, ListKind::kTuple));
      items.push_back(std::move(pair));
    } else {
      items.push_back(kind == ListKind::kDictKeys ? key : value);
    }
  }
  return runtime.NewList(std::move(items), kind);
}
ValueOr DictItems(Runtime& r, const Value& v, const Args& a) {
  return DictView(r, v, a, ListKind::kDictItems);
}
ValueOr DictKeys(Runtime& r, const Value& v, const Args& a) { return DictView(r, v, a, ListKind::kDictKeys); }
ValueOr DictValues(Runtime& r, const Value& v, const Args& a) {
  return DictView(r, v, a, ListKind::kDictValues);
}

}  // namespace

BuiltinFilter FindListMethod(std::string_view name) {
  if (name == "index") return ListIndex;
  if (name == "count") return ListCount;
  if (name == "copy") return Copy;
  return nullptr;
}

BuiltinFilter FindDictMethod(std::string_view name) {
  if (name == "get") return DictGet;
  if (name == "items") return DictItems;
  if (name == "keys") return DictKeys;
  if (name == "values") return DictValues;
  if (name == "copy") return Copy;
  return nullptr;
}

}  // namespace moepool::jinja
