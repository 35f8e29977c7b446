// + - * / // % ** with Python's meaning: floor division, the divisor's sign for %, true division for /.
// Integers are 64 bits; a result beyond them is an error.
#include <cmath>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_runtime.h"

namespace moepool::jinja {
namespace {

absl::Status Overflow() { return TypeError("integer overflow"); }

absl::Status Unsupported(std::string_view op, const Value& a, const Value& b) {
  return TypeError(
      StrCat("unsupported operand types for ", op, ": '", a.TypeName(), "' and '", b.TypeName(), "'"));
}

absl::StatusOr<Value> IntPower(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return TypeError("0 cannot be raised to a negative power");
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return Overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return Overflow();
  }
  return Value(result);
}

absl::StatusOr<Value> IntArithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+")
    return __builtin_add_overflow(a, b, &result) ? absl::StatusOr<Value>(Overflow()) : Value(result);
  if (op == "-")
    return __builtin_sub_overflow(a, b, &result) ? absl::StatusOr<Value>(Overflow()) : Value(result);
  if (op == "*")
    return __builtin_mul_overflow(a, b, &result) ? absl::StatusOr<Value>(Overflow()) : Value(result);
  if (op == "**") return IntPower(a, b);
  if (b == 0) return TypeError("division by zero");
  if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) {
    if (op == "%") return Value(int64_t{0});
    return a == INT64_MIN ? absl::StatusOr<Value>(Overflow()) : Value(-a);
  }
  const int64_t remainder = a % b;
  const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
  if (op == "%") return Value(adjust ? remainder + b : remainder);
  return Value(adjust ? a / b - 1 : a / b);
}

absl::StatusOr<Value> FloatArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") {
    if (a == 0 && b < 0) return TypeError("0.0 cannot be raised to a negative power");
    const double power = std::pow(a, b);
    if (std::isnan(power) && !std::isnan(a) && !std::isnan(b))
      return TypeError("the power is a complex number");
    if (std::isinf(power) && std::isfinite(a) && std::isfinite(b)) return TypeError("float overflow");
    return Value(power);
  }
  if (b == 0) return TypeError("float division by zero");
  if (op == "/") return Value(a / b);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (op == "%") return Value(remainder);
  const double quotient = (a - remainder) / b;
  return Value(quotient - std::floor(quotient) > 0.5 ? std::floor(quotient) + 1 : std::floor(quotient));
}

absl::StatusOr<Value> Repeat(Runtime& runtime, const Value& value, int64_t times) {
  const int64_t count = std::max<int64_t>(times, 0);
  if (value.IsString()) {
    const std::string& text = value.AsString();
    if (count > 0 && text.size() > runtime.limits().output_bytes / static_cast<uint64_t>(count)) {
      return runtime.CheckSize(runtime.limits().output_bytes + 1);
    }
    MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(text.size() * static_cast<size_t>(count)));
    std::string out;
    out.reserve(text.size() * static_cast<size_t>(count));
    for (int64_t i = 0; i < count && !text.empty(); ++i) out += text;
    return Value::String(std::move(out), value.IsMarkup());
  }
  const std::vector<Value>& items = value.AsList().items;
  int64_t total = 0;
  if (__builtin_mul_overflow(static_cast<int64_t>(items.size()), count, &total)) total = INT64_MAX;
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(total));
  std::vector<Value> out;
  out.reserve(static_cast<size_t>(total));
  for (int64_t i = 0; i < count && !items.empty(); ++i) out.insert(out.end(), items.begin(), items.end());
  return runtime.NewList(std::move(out), value.AsList().kind);
}

bool IsListOrTuple(const Value& value) { return value.IsList() && value.AsList().kind <= ListKind::kGroup; }

absl::StatusOr<Value> Add(Runtime& runtime, const Value& a, const Value& b) {
  if (a.IsString() && b.IsString()) {
    MOEPOOL_RETURN_IF_ERROR(runtime.ChargeBytes(a.AsString().size() + b.AsString().size()));
    const bool markup = a.IsMarkup() || b.IsMarkup();
    std::string left = markup && !a.IsMarkup() ? EscapeHtml(a.AsString()) : a.AsString();
    left += markup && !b.IsMarkup() ? EscapeHtml(b.AsString()) : b.AsString();
    return runtime.NewString(std::move(left), markup);
  }
  if (IsListOrTuple(a) && IsListOrTuple(b) &&
      (a.AsList().kind == ListKind::kList) == (b.AsList().kind == ListKind::kList)) {
    MOEPOOL_ASSIGN_OR_RETURN(std::vector<Value> items, Items(runtime, a));
    MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> more, Items(runtime, b));
    items.insert(items.end(), more.begin(), more.end());
    return runtime.NewList(std::move(items),
                           a.AsList().kind == ListKind::kList ? ListKind::kList : ListKind::kTuple);
  }
  return Unsupported("+", a, b);
}

}  // namespace

absl::StatusOr<Value> Arithmetic(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  if (op == "%" && a.IsString()) return FormatPercent(runtime, a.AsString(), b);
  if (a.IsUndefined()) return UndefinedError(a);
  if (b.IsUndefined()) return UndefinedError(b);
  if (a.IsIntegral() && b.IsIntegral()) return IntArithmetic(op, a.AsInt(), b.AsInt());
  if (a.IsNumber() && b.IsNumber()) return FloatArithmetic(op, a.AsDouble(), b.AsDouble());
  if (op == "+") return Add(runtime, a, b);
  if (op == "*") {
    if ((a.IsString() || IsListOrTuple(a)) && b.IsIntegral()) return Repeat(runtime, a, b.AsInt());
    if ((b.IsString() || IsListOrTuple(b)) && a.IsIntegral()) return Repeat(runtime, b, a.AsInt());
  }
  return Unsupported(op, a, b);
}

absl::StatusOr<Value> Negate(const Value& value) {
  if (value.IsUndefined()) return UndefinedError(value);
  if (value.kind() == Value::Kind::kFloat) return Value(-value.AsDouble());
  if (!value.IsIntegral()) return TypeError(StrCat("bad operand type for unary -: '", value.TypeName(), "'"));
  if (value.AsInt() == INT64_MIN) return Overflow();
  return Value(-value.AsInt());
}

}  // namespace moepool::jinja
