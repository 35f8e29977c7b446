// Filters over sequences and mappings that take no other filter's name.
#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_unicode.h"

namespace moepool::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

// What an item is compared by: `attribute` of it unless none, in lower case unless `case_sensitive`.
ValueOr SortKey(Runtime& runtime, const Value& item, const Value& attribute, bool case_sensitive) {
  Value key = item;
  if (!attribute.IsNone()) {
    MOEPOOL_ASSIGN_OR_RETURN(key, GetPath(runtime, item, attribute));
  }
  if (case_sensitive || !key.IsString()) return key;
  return runtime.NewString(Lower(key.AsString()));
}

// For `sort`, which takes several attributes ("a.b,c"): the list of their keys.
ValueOr MultiKey(Runtime& runtime, const Value& item, const Value& attributes, bool case_sensitive) {
  if (!attributes.IsString()) return SortKey(runtime, item, attributes, case_sensitive);
  std::vector<Value> keys;
  for (const std::string& path : std::vector<std::string>(absl::StrSplit(attributes.AsString(), ','))) {
    MOEPOOL_ASSIGN_OR_RETURN(Value key, SortKey(runtime, item, Value::String(path), case_sensitive));
    keys.push_back(std::move(key));
  }
  return runtime.NewList(std::move(keys));
}

absl::StatusOr<std::vector<Value>> SortKeys(Runtime& runtime, const std::vector<Value>& items,
                                            const Value& attribute, bool case_sensitive) {
  std::vector<Value> keys;
  keys.reserve(items.size());
  for (const Value& item : items) {
    MOEPOOL_ASSIGN_OR_RETURN(Value key, SortKey(runtime, item, attribute, case_sensitive));
    keys.push_back(std::move(key));
  }
  return keys;
}

// A stable merge sort of positions: std::stable_sort needs an order, which NaN and a failing comparison do
// not give.
absl::Status MergeSort(Runtime& runtime, const std::vector<Value>& keys, bool reverse, size_t first,
                       size_t last, std::vector<size_t>* order, std::vector<size_t>* scratch) {
  if (last - first < 2) return absl::OkStatus();
  const size_t middle = first + (last - first) / 2;
  MOEPOOL_RETURN_IF_ERROR(MergeSort(runtime, keys, reverse, first, middle, order, scratch));
  MOEPOOL_RETURN_IF_ERROR(MergeSort(runtime, keys, reverse, middle, last, order, scratch));
  size_t left = first, right = middle;
  for (size_t to = first; to < last; ++to) {
    bool take_right = left == middle;
    if (left < middle && right < last) {
      const Value &a = keys[(*order)[left]], &b = keys[(*order)[right]];
      MOEPOOL_ASSIGN_OR_RETURN(const int compared, reverse ? Compare(runtime, a, b) : Compare(runtime, b, a));
      take_right = compared < 0;
    }
    (*scratch)[to] = (*order)[take_right ? right++ : left++];
  }
  std::copy(scratch->begin() + static_cast<std::ptrdiff_t>(first),
            scratch->begin() + static_cast<std::ptrdiff_t>(last),
            order->begin() + static_cast<std::ptrdiff_t>(first));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<size_t>> SortedOrder(Runtime& runtime, const std::vector<Value>& keys,
                                                bool reverse) {
  std::vector<size_t> order(keys.size()), scratch(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  MOEPOOL_RETURN_IF_ERROR(MergeSort(runtime, keys, reverse, 0, keys.size(), &order, &scratch));
  return order;
}

ValueOr Sort(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound,
                           BoundArgs::Bind(args, {"reverse", "case_sensitive", "attribute"}));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  std::vector<Value> keys;
  for (const Value& item : items) {
    MOEPOOL_ASSIGN_OR_RETURN(Value key,
                             MultiKey(runtime, item, bound.Or(2, Value::None()), bound.True(1, false)));
    keys.push_back(std::move(key));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(runtime, keys, bound.True(0, false)));
  std::vector<Value> sorted;
  for (size_t i : order) sorted.push_back(items[i]);
  return runtime.NewList(std::move(sorted));
}

ValueOr Pair(Runtime& runtime, const Value& key, const Value& value) {
  return runtime.NewList({key, value}, ListKind::kTuple);
}

absl::StatusOr<std::vector<Value>> Pairs(Runtime& runtime, const Value& mapping) {
  std::vector<Value> pairs;
  for (const auto& [key, item] : mapping.AsDict().entries) {
    MOEPOOL_ASSIGN_OR_RETURN(Value pair, Pair(runtime, key, item));
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

ValueOr DictSort(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"case_sensitive", "by", "reverse"}));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string by, bound.String(1, "key"));
  if (by != "key" && by != "value") return TypeError("you can only sort by either 'key' or 'value'");
  if (value.IsUndefined()) return UndefinedError(value);
  if (!value.IsDict()) return TypeError(StrCat("dictsort of a ", value.TypeName()));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> pairs, Pairs(runtime, value));
  MOEPOOL_ASSIGN_OR_RETURN(
      const std::vector<Value> keys,
      SortKeys(runtime, pairs, Value(int64_t{by == "key" ? 0 : 1}), bound.True(0, false)));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(runtime, keys, bound.True(2, false)));
  std::vector<Value> sorted;
  for (size_t i : order) sorted.push_back(pairs[i]);
  return runtime.NewList(std::move(sorted));
}

ValueOr ItemsFilter(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_RETURN_IF_ERROR(BoundArgs::Bind(args, {}).status());
  if (value.IsUndefined()) return runtime.NewIterator({});
  if (!value.IsDict()) return TypeError("can only get item pairs from a mapping");
  MOEPOOL_ASSIGN_OR_RETURN(std::vector<Value> pairs, Pairs(runtime, value));
  return runtime.NewIterator(std::move(pairs));
}

ValueOr GroupBy(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound,
                           BoundArgs::Bind(args, {"attribute", "default", "case_sensitive"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  const Value* const otherwise = bound.Has(1) && !bound[1].IsNone() ? &bound[1] : nullptr;
  std::vector<Value> names, keys;
  for (const Value& item : items) {
    MOEPOOL_ASSIGN_OR_RETURN(Value name, GetPath(runtime, item, bound[0], otherwise));
    MOEPOOL_ASSIGN_OR_RETURN(Value key, SortKey(runtime, name, Value::None(), bound.True(2, false)));
    names.push_back(std::move(name));
    keys.push_back(std::move(key));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(runtime, keys, false));
  std::vector<Value> groups;
  for (size_t first = 0, last = 0; first < order.size(); first = last) {
    std::vector<Value> members;
    for (; last < order.size(); ++last) {
      MOEPOOL_ASSIGN_OR_RETURN(const bool same, Equal(runtime, keys[order[first]], keys[order[last]]));
      if (!same && last > first) break;
      members.push_back(items[order[last]]);
    }
    MOEPOOL_ASSIGN_OR_RETURN(Value list, runtime.NewList(std::move(members)));
    MOEPOOL_ASSIGN_OR_RETURN(Value group,
                             runtime.NewList({names[order[first]], std::move(list)}, ListKind::kGroup));
    groups.push_back(std::move(group));
  }
  return runtime.NewList(std::move(groups));
}

ValueOr Unique(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"case_sensitive", "attribute"}));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  std::set<std::string> seen;
  std::vector<Value> kept;
  for (const Value& item : items) {
    MOEPOOL_ASSIGN_OR_RETURN(const Value key,
                             SortKey(runtime, item, bound.Or(1, Value::None()), bound.True(0, false)));
    std::string encoded;
    MOEPOOL_RETURN_IF_ERROR(EncodeKey(runtime, key, &encoded));
    if (seen.insert(std::move(encoded)).second) kept.push_back(item);
  }
  return runtime.NewIterator(std::move(kept));
}

ValueOr Extreme(Runtime& runtime, const Value& value, const Args& args, int sign) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"case_sensitive", "attribute"}));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  if (items.empty()) return Value::Undefined("no aggregated item, the sequence was empty");
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> keys,
                           SortKeys(runtime, items, bound.Or(1, Value::None()), bound.True(0, false)));
  size_t best = 0;
  for (size_t i = 1; i < items.size(); ++i) {
    MOEPOOL_ASSIGN_OR_RETURN(const int compared, Compare(runtime, keys[i], keys[best]));
    if (compared == sign || (compared != 2 && compared * sign > 0)) best = i;
  }
  return items[best];
}
ValueOr Min(Runtime& r, const Value& v, const Args& a) { return Extreme(r, v, a, -1); }
ValueOr Max(Runtime& r, const Value& v, const Args& a) { return Extreme(r, v, a, 1); }

ValueOr Sum(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"attribute", "start"}));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  Value total = bound.Or(1, Value(int64_t{0}));
  if (total.IsString()) return TypeError("sum() cannot sum strings");
  for (const Value& item : items) {
    Value term = item;
    if (bound.Has(0) && !bound[0].IsNone()) {
      MOEPOOL_ASSIGN_OR_RETURN(term, GetPath(runtime, item, bound[0]));
    }
    MOEPOOL_ASSIGN_OR_RETURN(total, Arithmetic(runtime, "+", total, term));
  }
  return total;
}

ValueOr Join(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"d", "attribute"}));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string separator, ToText(runtime, bound.Or(0, Value::String(""))));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) {
      MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(separator.size()));
      out += separator;
    }
    Value item = items[i];
    if (bound.Has(1) && !bound[1].IsNone()) {
      MOEPOOL_ASSIGN_OR_RETURN(item, GetPath(runtime, item, bound[1]));
    }
    MOEPOOL_RETURN_IF_ERROR(AppendText(runtime, item, &out));
    MOEPOOL_RETURN_IF_ERROR(runtime.CheckSize(out.size()));
  }
  return runtime.NewString(std::move(out));
}

ValueOr List(Runtime& runtime, const Value& value, const Args&) {
  MOEPOOL_ASSIGN_OR_RETURN(std::vector<Value> items, Items(runtime, value));
  return runtime.NewList(std::move(items));
}

ValueOr First(Runtime& runtime, const Value& value, const Args&) {
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  return items.empty() ? Value::Undefined("no first item, the sequence was empty") : items.front();
}

ValueOr Last(Runtime& runtime, const Value& value, const Args&) {
  if (value.IsObject()) return TypeError(StrCat("'", value.TypeName(), "' object is not reversible"));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  return items.empty() ? Value::Undefined("no last item, the sequence was empty") : items.back();
}

ValueOr Reverse(Runtime& runtime, const Value& value, const Args&) {
  MOEPOOL_ASSIGN_OR_RETURN(std::vector<Value> items, Items(runtime, value));
  std::reverse(items.begin(), items.end());
  if (!value.IsString()) return runtime.NewIterator(std::move(items));
  std::string out;
  for (const Value& item : items) out += item.AsString();
  return runtime.NewString(std::move(out));
}

ValueOr Batch(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"linecount", "fill_with"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t size, bound.Int(0, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  std::vector<Value> batches, batch;
  for (size_t i = 0; i < items.size(); ++i) {
    batch.push_back(items[i]);
    const bool last = i + 1 == items.size();
    if (static_cast<int64_t>(batch.size()) < size && !last) continue;
    if (last && bound.Has(1) && !bound[1].IsNone() && static_cast<int64_t>(batch.size()) < size) {
      MOEPOOL_RETURN_IF_ERROR(runtime.Charge(size));
      batch.resize(static_cast<size_t>(size), bound[1]);
    }
    MOEPOOL_ASSIGN_OR_RETURN(Value list, runtime.NewList(std::exchange(batch, {})));
    batches.push_back(std::move(list));
  }
  return runtime.NewIterator(std::move(batches));
}

ValueOr Slice(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"slices", "fill_with"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t slices, bound.Int(0, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  if (slices == 0) return TypeError("division by zero");
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(std::max<int64_t>(slices, 0)));
  const int64_t length = static_cast<int64_t>(items.size());
  const int64_t size = slices > 0 ? length / slices : 0, larger = slices > 0 ? length % slices : 0;
  std::vector<Value> out;
  auto from = items.begin();
  for (int64_t i = 0; i < slices; ++i) {
    const auto to = from + size + (i < larger ? 1 : 0);
    std::vector<Value> slice(from, to);
    if (bound.Has(1) && !bound[1].IsNone() && i >= larger) slice.push_back(bound[1]);
    MOEPOOL_ASSIGN_OR_RETURN(Value list, runtime.NewList(std::move(slice)));
    out.push_back(std::move(list));
    from = to;
  }
  return runtime.NewIterator(std::move(out));
}

// An attribute alone, never an item.
ValueOr Attr(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"name"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string name, ToText(runtime, bound[0]));
  if (value.IsDict() && FindDictMethod(name) == nullptr) {
    return Value::Undefined(StrCat("'dict object' has no attribute '", name, "'"));
  }
  return GetAttribute(runtime, value, name);
}

}  // namespace

BuiltinFilter FindListFilter(std::string_view name) {
  static const auto* const filters = new std::map<std::string_view, BuiltinFilter>{
      {"sort", Sort},       {"dictsort", DictSort}, {"items", ItemsFilter}, {"groupby", GroupBy},
      {"unique", Unique},   {"min", Min},           {"max", Max},           {"sum", Sum},
      {"join", Join},       {"list", List},         {"first", First},       {"last", Last},
      {"reverse", Reverse}, {"batch", Batch},       {"slice", Slice},       {"attr", Attr},
  };
  const auto it = filters->find(name);
  return it == filters->end() ? nullptr : it->second;
}

}  // namespace moepool::jinja
