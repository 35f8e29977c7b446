// Runs a parsed template. Scopes follow Jinja's rules: a for body, macro, call, filter, with, generation or
// captured set block is a scope of its own, an if is not; what is set in a scope is gone when it ends.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "common/text/jinja_ast.h"
#include "common/text/jinja_runtime.h"

namespace moepool::jinja {

struct Scope {
  std::shared_ptr<Scope> parent;
  std::map<std::string, Value, std::less<>> variables;
};
using ScopePtr = std::shared_ptr<Scope>;

// How a block ended.
enum class Flow { kNext, kBreak, kContinue };

// One rendering, by one thread. The AST and the Runtime outlive it.
class Evaluator {
 public:
  explicit Evaluator(Runtime& runtime) : runtime_(runtime) {}

  // ResourceExhausted at a limit, InvalidArgument otherwise; the message gives the line.
  absl::Status Run(const Block& root, const ScopePtr& scope, std::string* out);

  // For macros and recursive loops.
  absl::StatusOr<Flow> Exec(const Block& block, const ScopePtr& scope, std::string* out);
  absl::Status ExecLoop(const Stmt& stmt, const Value& sequence, const ScopePtr& scope, int depth,
                        std::string* out);
  absl::StatusOr<Value> Eval(const Expr& expr, const ScopePtr& scope);
  absl::Status Assign(const Target& target, const Value& value, const ScopePtr& scope);

 private:
  absl::StatusOr<Flow> ExecOne(const Stmt& stmt, const ScopePtr& scope, std::string* out);
  absl::StatusOr<Flow> ExecIf(const Stmt& stmt, const ScopePtr& scope, std::string* out);
  absl::Status ExecMacro(const Stmt& stmt, const ScopePtr& scope);
  absl::Status ExecCall(const Stmt& stmt, const ScopePtr& scope, std::string* out);
  absl::Status ExecWith(const Stmt& stmt, const ScopePtr& scope, Scope* inner);
  // Renders the body in a scope of its own and applies the filters of `expr` to its text.
  absl::StatusOr<Value> Capture(const Stmt& stmt, const ScopePtr& scope, Flow* flow);

  absl::StatusOr<Value> EvalNode(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<std::vector<Value>> EvalItems(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalDict(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalName(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalArithmetic(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalConcat(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalLogic(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalCompare(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalConditional(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalItem(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalSlice(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalCall(const Expr& expr, const ScopePtr& scope, Object* caller);
  absl::StatusOr<Value> EvalFilter(const Expr& expr, const ScopePtr& scope);
  absl::StatusOr<Value> EvalTest(const Expr& expr, const ScopePtr& scope);
  absl::Status EvalArgs(const Expr& expr, const ScopePtr& scope, Args* args);
  absl::StatusOr<bool> CompareOnce(std::string_view op, const Value& a, const Value& b);
  void NoteLine(int line) {
    if (error_line_ == 0) error_line_ = line;
  }

  Runtime& runtime_;
  Value captured_;      // what kCaptured stands for
  int error_line_ = 0;  // of the innermost failure
};

}  // namespace moepool::jinja
