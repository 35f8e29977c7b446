// Expressions. Each kind has a function of its own, so that one level of recursion keeps few temporaries on
// the stack.
#include "common/text/jinja_eval.h"

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_builtins.h"

namespace moepool::jinja {

absl::StatusOr<Value> Evaluator::Eval(const Expr& expr, const ScopePtr& scope) {
  MOEPOOL_RETURN_IF_ERROR(runtime_.Charge(1));
  const Runtime::Level level(runtime_);
  absl::Status status = level.Check();
  if (status.ok()) {
    absl::StatusOr<Value> value = EvalNode(expr, scope);
    if (value.ok()) return value;
    status = std::move(value).status();
  }
  NoteLine(expr.line);
  return status;
}

absl::StatusOr<Value> Evaluator::EvalNode(const Expr& expr, const ScopePtr& scope) {
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.value;
    case ExprKind::kCaptured:
      return captured_;
    case ExprKind::kName:
      return EvalName(expr, scope);
    case ExprKind::kList:
    case ExprKind::kTuple: {
      MOEPOOL_ASSIGN_OR_RETURN(std::vector<Value> items, EvalItems(expr, scope));
      return runtime_.NewList(std::move(items),
                              expr.kind == ExprKind::kList ? ListKind::kList : ListKind::kTuple);
    }
    case ExprKind::kDict:
      return EvalDict(expr, scope);
    case ExprKind::kNegate:
    case ExprKind::kPlus: {
      MOEPOOL_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
      if (expr.kind == ExprKind::kNegate) return Negate(value);
      return Arithmetic(runtime_, "+", Value(int64_t{0}), value);
    }
    case ExprKind::kNot: {
      MOEPOOL_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
      return Value(!IsTrue(value));
    }
    case ExprKind::kArithmetic:
      return EvalArithmetic(expr, scope);
    case ExprKind::kConcat:
      return EvalConcat(expr, scope);
    case ExprKind::kAnd:
    case ExprKind::kOr:
      return EvalLogic(expr, scope);
    case ExprKind::kCompare:
      return EvalCompare(expr, scope);
    case ExprKind::kConditional:
      return EvalConditional(expr, scope);
    case ExprKind::kAttribute: {
      MOEPOOL_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
      return GetAttribute(runtime_, value, expr.name);
    }
    case ExprKind::kItem:
      return EvalItem(expr, scope);
    case ExprKind::kSlice:
      return EvalSlice(expr, scope);
    case ExprKind::kCall:
      return EvalCall(expr, scope, nullptr);
    case ExprKind::kFilter:
      return EvalFilter(expr, scope);
    case ExprKind::kTest:
      return EvalTest(expr, scope);
  }
  return absl::InternalError("unknown expression");
}

absl::StatusOr<std::vector<Value>> Evaluator::EvalItems(const Expr& expr, const ScopePtr& scope) {
  std::vector<Value> items;
  items.reserve(expr.args.size());
  for (const ExprPtr& arg : expr.args) {
    MOEPOOL_ASSIGN_OR_RETURN(Value item, Eval(*arg, scope));
    items.push_back(std::move(item));
  }
  return items;
}

absl::StatusOr<Value> Evaluator::EvalDict(const Expr& expr, const ScopePtr& scope) {
  MOEPOOL_ASSIGN_OR_RETURN(std::vector<Value> items, EvalItems(expr, scope));
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i + 1 < items.size(); i += 2)
    entries.emplace_back(std::move(items[i]), std::move(items[i + 1]));
  return runtime_.NewDict(std::move(entries));
}

absl::StatusOr<Value> Evaluator::EvalName(const Expr& expr, const ScopePtr& scope) {
  for (const Scope* s = scope.get(); s != nullptr; s = s->parent.get()) {
    const auto it = s->variables.find(expr.name);
    if (it != s->variables.end()) return it->second;
  }
  return Value::Undefined(StrCat("'", expr.name, "' is undefined"));
}

absl::StatusOr<Value> Evaluator::EvalArithmetic(const Expr& expr, const ScopePtr& scope) {
  MOEPOOL_ASSIGN_OR_RETURN(const Value left, Eval(*expr.args[0], scope));
  MOEPOOL_ASSIGN_OR_RETURN(const Value right, Eval(*expr.args[1], scope));
  return Arithmetic(runtime_, expr.name, left, right);
}

absl::StatusOr<Value> Evaluator::EvalConcat(const Expr& expr, const ScopePtr& scope) {
  std::string text;
  for (const ExprPtr& arg : expr.args) {
    MOEPOOL_ASSIGN_OR_RETURN(const Value value, Eval(*arg, scope));
    MOEPOOL_RETURN_IF_ERROR(AppendText(runtime_, value, &text));
  }
  return runtime_.NewString(std::move(text));
}

// Gives an operand, not a bool.
absl::StatusOr<Value> Evaluator::EvalLogic(const Expr& expr, const ScopePtr& scope) {
  Value value;
  for (const ExprPtr& arg : expr.args) {
    MOEPOOL_ASSIGN_OR_RETURN(value, Eval(*arg, scope));
    if (IsTrue(value) == (expr.kind == ExprKind::kOr)) break;
  }
  return value;
}

absl::StatusOr<Value> Evaluator::EvalCompare(const Expr& expr, const ScopePtr& scope) {
  MOEPOOL_ASSIGN_OR_RETURN(Value left, Eval(*expr.args[0], scope));
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    MOEPOOL_ASSIGN_OR_RETURN(Value right, Eval(*expr.args[i + 1], scope));
    MOEPOOL_ASSIGN_OR_RETURN(const bool holds, CompareOnce(expr.operators[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

absl::StatusOr<bool> Evaluator::CompareOnce(std::string_view op, const Value& a, const Value& b) {
  if (op == "in") return Contains(runtime_, b, a);
  if (op == "not in") {
    MOEPOOL_ASSIGN_OR_RETURN(const bool contains, Contains(runtime_, b, a));
    return !contains;
  }
  if (op == "==" || op == "!=") {
    MOEPOOL_ASSIGN_OR_RETURN(const bool equal, Equal(runtime_, a, b));
    return equal == (op == "==");
  }
  MOEPOOL_ASSIGN_OR_RETURN(const int order, Compare(runtime_, a, b));
  if (order == 2) return false;  // NaN
  if (op == "<") return order < 0;
  if (op == "<=") return order <= 0;
  if (op == ">") return order > 0;
  return order >= 0;
}

absl::StatusOr<Value> Evaluator::EvalConditional(const Expr& expr, const ScopePtr& scope) {
  MOEPOOL_ASSIGN_OR_RETURN(const Value condition, Eval(*expr.args[1], scope));
  if (IsTrue(condition)) return Eval(*expr.args[0], scope);
  if (expr.args[2] != nullptr) return Eval(*expr.args[2], scope);
  return Value::Undefined("the inline if evaluated to false and has no else");
}

absl::StatusOr<Value> Evaluator::EvalItem(const Expr& expr, const ScopePtr& scope) {
  MOEPOOL_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
  MOEPOOL_ASSIGN_OR_RETURN(const Value key, Eval(*expr.args[1], scope));
  return GetItem(runtime_, value, key);
}

absl::StatusOr<Value> Evaluator::EvalSlice(const Expr& expr, const ScopePtr& scope) {
  MOEPOOL_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0], scope));
  Value bounds[3] = {Value::None(), Value::None(), Value::None()};
  for (size_t i = 0; i < 3; ++i) {
    if (expr.args[i + 1] == nullptr) continue;
    MOEPOOL_ASSIGN_OR_RETURN(bounds[i], Eval(*expr.args[i + 1], scope));
  }
  return GetSlice(runtime_, value, bounds[0], bounds[1], bounds[2]);
}

absl::Status Evaluator::EvalArgs(const Expr& expr, const ScopePtr& scope, Args* args) {
  for (size_t i = 1; i < expr.args.size(); ++i) {
    MOEPOOL_ASSIGN_OR_RETURN(Value value, Eval(*expr.args[i], scope));
    args->positional.push_back(std::move(value));
  }
  for (const auto& [name, arg] : expr.named) {
    MOEPOOL_ASSIGN_OR_RETURN(Value value, Eval(*arg, scope));
    args->named.emplace_back(name, std::move(value));
  }
  if (expr.star != nullptr) {
    MOEPOOL_ASSIGN_OR_RETURN(const Value sequence, Eval(*expr.star, scope));
    MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime_, sequence));
    args->positional.insert(args->positional.end(), items.begin(), items.end());
  }
  if (expr.double_star != nullptr) {
    MOEPOOL_ASSIGN_OR_RETURN(const Value mapping, Eval(*expr.double_star, scope));
    if (!mapping.IsDict()) return TypeError("argument after ** must be a mapping");
    MOEPOOL_RETURN_IF_ERROR(runtime_.Charge(static_cast<int64_t>(mapping.AsDict().entries.size())));
    for (const auto& [key, value] : mapping.AsDict().entries) {
      if (!key.IsString()) return TypeError("keywords must be strings");
      args->named.emplace_back(key.AsString(), value);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Evaluator::EvalCall(const Expr& expr, const ScopePtr& scope, Object* caller) {
  MOEPOOL_ASSIGN_OR_RETURN(const Value callee, Eval(*expr.args[0], scope));
  Args args;
  MOEPOOL_RETURN_IF_ERROR(EvalArgs(expr, scope, &args));
  if (caller != nullptr) args.named.emplace_back("caller", Value(caller));
  return CallValue(runtime_, callee, args);
}

absl::StatusOr<Value> Evaluator::EvalFilter(const Expr& expr, const ScopePtr& scope) {
  const BuiltinFilter filter = FindFilter(expr.name);
  if (filter == nullptr) return TypeError(StrCat("no filter named '", expr.name, "'"));
  MOEPOOL_ASSIGN_OR_RETURN(const Value input, Eval(*expr.args[0], scope));
  Args args;
  MOEPOOL_RETURN_IF_ERROR(EvalArgs(expr, scope, &args));
  return filter(runtime_, input, args);
}

absl::StatusOr<Value> Evaluator::EvalTest(const Expr& expr, const ScopePtr& scope) {
  const BuiltinTest test = FindTest(expr.name);
  if (test == nullptr) return TypeError(StrCat("no test named '", expr.name, "'"));
  MOEPOOL_ASSIGN_OR_RETURN(const Value input, Eval(*expr.args[0], scope));
  Args args;
  MOEPOOL_RETURN_IF_ERROR(EvalArgs(expr, scope, &args));
  MOEPOOL_ASSIGN_OR_RETURN(const bool holds, test(runtime_, input, args));
  return Value(holds);
}

}  // namespace moepool::jinja
