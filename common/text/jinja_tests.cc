// What may stand after `is`.
#include <map>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_unicode.h"

namespace moepool::jinja {
namespace {

using Kind = Value::Kind;
using BoolOr = absl::StatusOr<bool>;

// Tests that ask about the kind alone.
template <typename Predicate>
BoolOr Ask(const Args& args, const Value& value, Predicate predicate) {
  MOEPOOL_RETURN_IF_ERROR(BoundArgs::Bind(args, {}).status());
  return predicate(value);
}

#define KIND_TEST(name, condition)                                               \
  BoolOr name(Runtime&, const Value& value, const Args& args) {                  \
    return Ask(args, value, [](const Value& v) -> bool { return (condition); }); \
  }
KIND_TEST(IsDefined, !v.IsUndefined())
KIND_TEST(IsUndefinedTest, v.IsUndefined())
KIND_TEST(IsNoneTest, v.IsNone())
KIND_TEST(IsBoolean, v.kind() == Kind::kBool)
KIND_TEST(IsTrueTest, v.kind() == Kind::kBool && v.AsBool())
KIND_TEST(IsFalseTest, v.kind() == Kind::kBool && !v.AsBool())
KIND_TEST(IsInteger, v.kind() == Kind::kInt)
KIND_TEST(IsFloat, v.kind() == Kind::kFloat)
KIND_TEST(IsNumber, v.IsNumber())
KIND_TEST(IsStringTest, v.IsString())
KIND_TEST(IsMapping, v.IsDict())
KIND_TEST(IsIterable, v.IsUndefined() || v.IsString() || v.IsList() || v.IsDict() ||
                          (v.IsObject() && v.AsObject()->IsIterable()))
KIND_TEST(IsSequence, v.IsString() || v.IsDict() || (v.IsList() && v.AsList().kind <= ListKind::kRange))
KIND_TEST(IsCallable, v.IsObject() && v.AsObject()->IsCallable())
KIND_TEST(IsEscaped, v.IsMarkup())
#undef KIND_TEST

BoolOr IsEven(Runtime& runtime, const Value& value, const Args&) {
  MOEPOOL_ASSIGN_OR_RETURN(const Value rest, Arithmetic(runtime, "%", value, Value(int64_t{2})));
  return Equal(runtime, rest, Value(int64_t{0}));
}

BoolOr IsOdd(Runtime& runtime, const Value& value, const Args&) {
  MOEPOOL_ASSIGN_OR_RETURN(const Value rest, Arithmetic(runtime, "%", value, Value(int64_t{2})));
  return Equal(runtime, rest, Value(int64_t{1}));
}

BoolOr IsDivisibleBy(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"num"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const Value rest, Arithmetic(runtime, "%", value, bound[0]));
  return Equal(runtime, rest, Value(int64_t{0}));
}

BoolOr IsEqual(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"other"}, 1));
  return Equal(runtime, value, bound[0]);
}

BoolOr IsNotEqual(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const bool equal, IsEqual(runtime, value, args));
  return !equal;
}

BoolOr IsSameAs(Runtime&, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"other"}, 1));
  return value.IsSame(bound[0]);
}

BoolOr IsIn(Runtime& runtime, const Value& value, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"seq"}, 1));
  return Contains(runtime, bound[0], value);
}

// Whether the order is one for which `holds` is true.
template <typename Predicate>
BoolOr Ordered(Runtime& runtime, const Value& value, const Args& args, Predicate holds) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"other"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const int order, Compare(runtime, value, bound[0]));
  return order != 2 && holds(order);
}

BoolOr IsLess(Runtime& r, const Value& v, const Args& a) {
  return Ordered(r, v, a, [](int order) { return order < 0; });
}
BoolOr IsLessOrEqual(Runtime& r, const Value& v, const Args& a) {
  return Ordered(r, v, a, [](int order) { return order <= 0; });
}
BoolOr IsGreater(Runtime& r, const Value& v, const Args& a) {
  return Ordered(r, v, a, [](int order) { return order > 0; });
}
BoolOr IsGreaterOrEqual(Runtime& r, const Value& v, const Args& a) {
  return Ordered(r, v, a, [](int order) { return order >= 0; });
}

// str.islower and str.isupper: some letter has case, and none has the other.
BoolOr HasCase(Runtime& runtime, const Value& value, bool upper) {
  MOEPOOL_ASSIGN_OR_RETURN(const std::string text, ToText(runtime, value));
  MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size() * 2));
  const std::string lowered = Lower(text), uppered = Upper(text);
  return lowered != uppered && text == (upper ? uppered : lowered);
}
BoolOr IsLower(Runtime& r, const Value& v, const Args&) { return HasCase(r, v, false); }
BoolOr IsUpper(Runtime& r, const Value& v, const Args&) { return HasCase(r, v, true); }

BoolOr IsFilter(Runtime&, const Value& value, const Args&) {
  return value.IsString() && FindFilter(value.AsString()) != nullptr;
}
BoolOr IsTest(Runtime&, const Value& value, const Args&) {
  return value.IsString() && FindTest(value.AsString()) != nullptr;
}

}  // namespace

BuiltinTest FindTest(std::string_view name) {
  static const auto* const tests = new std::map<std::string_view, BuiltinTest>{
      {"defined", IsDefined},
      {"undefined", IsUndefinedTest},
      {"none", IsNoneTest},
      {"boolean", IsBoolean},
      {"true", IsTrueTest},
      {"false", IsFalseTest},
      {"integer", IsInteger},
      {"float", IsFloat},
      {"number", IsNumber},
      {"string", IsStringTest},
      {"mapping", IsMapping},
      {"iterable", IsIterable},
      {"sequence", IsSequence},
      {"callable", IsCallable},
      {"escaped", IsEscaped},
      {"even", IsEven},
      {"odd", IsOdd},
      {"divisibleby", IsDivisibleBy},
      {"eq", IsEqual},
      {"==", IsEqual},
      {"equalto", IsEqual},
      {"ne", IsNotEqual},
      {"!=", IsNotEqual},
      {"sameas", IsSameAs},
      {"in", IsIn},
      {"lt", IsLess},
      {"<", IsLess},
      {"lessthan", IsLess},
      {"le", IsLessOrEqual},
      {"<=", IsLessOrEqual},
      {"gt", IsGreater},
      {">", IsGreater},
      {"greaterthan", IsGreater},
      {"ge", IsGreaterOrEqual},
      {">=", IsGreaterOrEqual},
      {"lower", IsLower},
      {"upper", IsUpper},
      {"filter", IsFilter},
      {"test", IsTest},
  };
  const auto it = tests->find(name);
  return it == tests->end() ? nullptr : it->second;
}

}  // namespace moepool::jinja
