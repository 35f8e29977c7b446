// map, select, reject, selectattr, rejectattr: each item through another filter or test.
#include <map>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_builtins.h"

namespace moepool::jinja {
namespace {

using ValueOr = absl::StatusOr<Value>;

// The name at `at` of the arguments, and the arguments after it in *rest.
absl::StatusOr<std::string> TakeName(const Args& args, size_t at, std::string_view what, Args* rest) {
  if (!args.positional[at].IsString()) return TypeError(StrCat("the name of a ", what, " is a string"));
  rest->positional.assign(args.positional.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                          args.positional.end());
  rest->named = args.named;
  return args.positional[at].AsString();
}

// A false input (none, 0) counts as an empty one here, as in Jinja.
ValueOr MapFilter(Runtime& runtime, const Value& value, const Args& args) {
  if (!IsTrue(value)) return runtime.NewIterator({});
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  std::vector<Value> out;
  out.reserve(items.size());
  if (args.positional.empty()) {
    const Value *path = nullptr, *otherwise = nullptr;
    for (const auto& [name, argument] : args.named) {
      if (name != "attribute" && name != "default")
        return TypeError(StrCat("unexpected keyword argument '", name, "'"));
      (name == "attribute" ? path : otherwise) = &argument;
    }
    if (path == nullptr) return TypeError("map requires a filter argument");
    if (otherwise != nullptr && otherwise->IsNone()) otherwise = nullptr;
    for (const Value& item : items) {
      MOEPOOL_ASSIGN_OR_RETURN(Value mapped, GetPath(runtime, item, *path, otherwise));
      out.push_back(std::move(mapped));
    }
    return runtime.NewIterator(std::move(out));
  }
  Args rest;
  MOEPOOL_ASSIGN_OR_RETURN(const std::string name, TakeName(args, 0, "filter", &rest));
  for (const Value& item : items) {
    MOEPOOL_ASSIGN_OR_RETURN(Value mapped, CallFilter(runtime, name, item, rest));
    out.push_back(std::move(mapped));
  }
  return runtime.NewIterator(std::move(out));
}

// Keeps the items whose test gives `wanted`; the test sees an attribute of the item where `by_attribute`.
ValueOr Select(Runtime& runtime, const Value& value, const Args& args, bool wanted, bool by_attribute) {
  if (!IsTrue(value)) return runtime.NewIterator({});
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, value));
  const size_t test_at = by_attribute ? 1 : 0;
  if (by_attribute && args.positional.empty()) return TypeError("missing parameter for attribute name");
  Args rest;
  std::string test;
  if (args.positional.size() > test_at) {
    MOEPOOL_ASSIGN_OR_RETURN(test, TakeName(args, test_at, "test", &rest));
  }
  std::vector<Value> kept;
  for (const Value& item : items) {
    Value subject = item;
    if (by_attribute) {
      MOEPOOL_ASSIGN_OR_RETURN(subject, GetPath(runtime, item, args.positional[0]));
    }
    bool passes = IsTrue(subject);
    if (!test.empty()) {
      MOEPOOL_ASSIGN_OR_RETURN(passes, CallTest(runtime, test, subject, rest));
    }
    if (passes == wanted) kept.push_back(item);
  }
  return runtime.NewIterator(std::move(kept));
}

ValueOr SelectFilter(Runtime& r, const Value& v, const Args& a) { return Select(r, v, a, true, false); }
ValueOr RejectFilter(Runtime& r, const Value& v, const Args& a) { return Select(r, v, a, false, false); }
ValueOr SelectAttr(Runtime& r, const Value& v, const Args& a) { return Select(r, v, a, true, true); }
ValueOr RejectAttr(Runtime& r, const Value& v, const Args& a) { return Select(r, v, a, false, true); }

}  // namespace

BuiltinFilter FindSelectFilter(std::string_view name) {
  static const auto* const filters = new std::map<std::string_view, BuiltinFilter>{
      {"map", MapFilter},         {"select", SelectFilter},   {"reject", RejectFilter},
      {"selectattr", SelectAttr}, {"rejectattr", RejectAttr},
  };
  const auto it = filters->find(name);
  return it == filters->end() ? nullptr : it->second;
}

}  // namespace moepool::jinja
