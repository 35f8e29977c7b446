// Statements, macros and loops.
#include <utility>

#include "common/base/status_macros.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_eval.h"
#include "common/text/jinja_loop.h"
#include "common/text/jinja_strings.h"

namespace moepool::jinja {
namespace {

ScopePtr NewScope(const ScopePtr& parent) {
  auto scope = std::make_shared<Scope>();
  scope->parent = parent;
  return scope;
}

// A macro, or the body of a call block. Sees the variables of the place where it stands as they are when it
// is called.
class Macro : public Object {
 public:
  Macro(Evaluator& evaluator, std::string name, const Stmt& stmt, ScopePtr scope)
      : evaluator_(evaluator), name_(std::move(name)), stmt_(stmt), scope_(std::move(scope)) {}

  std::string_view TypeName() const override { return "Macro"; }
  bool IsCallable() const override { return true; }

  absl::Status AppendRepr(Runtime&, std::string* out) const override {
    StrAppend(out, "<Macro ", name_.empty() ? "anonymous" : StrCat("'", name_, "'"), ">");
    return absl::OkStatus();
  }

  absl::StatusOr<Value> GetAttribute(Runtime& runtime, std::string_view name) override {
    if (name == "name") return Value::String(name_);
    if (name != "arguments") return Object::GetAttribute(runtime, name);
    std::vector<Value> names;
    for (const std::string& argument : stmt_.signature.names) names.push_back(Value::String(argument));
    return runtime.NewList(std::move(names), ListKind::kTuple);
  }

  absl::StatusOr<Value> Call(Runtime& runtime, const Args& args) override {
    const ScopePtr scope = NewScope(scope_);
    MOEPOOL_RETURN_IF_ERROR(BindArguments(runtime, args, scope));
    std::string out;
    MOEPOOL_ASSIGN_OR_RETURN(const Flow flow, evaluator_.Exec(stmt_.body, scope, &out));
    static_cast<void>(flow);  // the parser lets no break out of a macro
    return runtime.NewString(std::move(out));
  }

 private:
  absl::Status BindArguments(Runtime& runtime, const Args& args, const ScopePtr& scope) const {
    const Signature& signature = stmt_.signature;
    std::map<std::string, Value, std::less<>> named(args.named.begin(), args.named.end());
    const size_t optional_from = signature.names.size() - signature.defaults.size();
    for (size_t i = 0; i < signature.names.size(); ++i) {
      const std::string& name = signature.names[i];
      Value value = Value::Undefined(StrCat("parameter '", name, "' was not provided"));
      const auto it = named.find(name);
      if (i < args.positional.size()) {
        if (it != named.end())
          return TypeError(StrCat("macro '", name_, "' got two values for '", name, "'"));
        value = args.positional[i];
      } else if (it != named.end()) {
        value = it->second;
        named.erase(it);
      } else if (i >= optional_from) {
        MOEPOOL_ASSIGN_OR_RETURN(value, evaluator_.Eval(*signature.defaults[i - optional_from], scope));
      }
      scope->variables[name] = std::move(value);
    }
    if (signature.uses_caller && scope->variables.count("caller") == 0) {
      const auto it = named.find("caller");
      scope->variables["caller"] = it != named.end() ? it->second : Value::Undefined("no caller defined");
      if (it != named.end()) named.erase(it);
    }
    if (signature.uses_kwargs) {
      std::vector<std::pair<Value, Value>> entries;
      for (const auto& [name, value] : args.named) {
        if (named.count(name) > 0) entries.emplace_back(Value::String(name), value);
      }
      MOEPOOL_ASSIGN_OR_RETURN(scope->variables["kwargs"], runtime.NewDict(std::move(entries)));
    } else if (!named.empty()) {
      return TypeError(StrCat("macro '", name_, "' takes no keyword argument '", named.begin()->first, "'"));
    }
    const size_t taken = std::min(args.positional.size(), signature.names.size());
    if (signature.uses_varargs) {
      std::vector<Value> rest(args.positional.begin() + static_cast<std::ptrdiff_t>(taken),
                              args.positional.end());
      MOEPOOL_ASSIGN_OR_RETURN(scope->variables["varargs"],
                               runtime.NewList(std::move(rest), ListKind::kTuple));
    } else if (args.positional.size() > taken) {
      return TypeError(StrCat("macro '", name_, "' takes not more than ", signature.names.size(),
                              " argument(s), ", args.positional.size(), " given"));
    }
    return absl::OkStatus();
  }

  Evaluator& evaluator_;
  const std::string name_;
  const Stmt& stmt_;
  const ScopePtr scope_;
};

}  // namespace

absl::Status Evaluator::Run(const Block& root, const ScopePtr& scope, std::string* out) {
  const absl::StatusOr<Flow> flow = Exec(root, scope, out);
  if (flow.ok()) return absl::OkStatus();
  return absl::Status(flow.status().code(),
                      StrCat("chat template line ", error_line_, ": ", flow.status().message()));
}

absl::StatusOr<Flow> Evaluator::Exec(const Block& block, const ScopePtr& scope, std::string* out) {
  const Runtime::Level level(runtime_);
  absl::Status status = level.Check();
  for (const auto& stmt : block) {
    if (status.ok()) status = runtime_.Charge(1);
    if (status.ok()) {
      const absl::StatusOr<Flow> flow = ExecOne(*stmt, scope, out);
      if (flow.ok() && *flow == Flow::kNext) continue;
      if (flow.ok()) return flow;
      status = flow.status();
    }
    NoteLine(stmt->line);
    return status;
  }
  return Flow::kNext;
}

absl::StatusOr<Flow> Evaluator::ExecOne(const Stmt& stmt, const ScopePtr& scope, std::string* out) {
  Flow flow = Flow::kNext;
  switch (stmt.kind) {
    case StmtKind::kText:
      MOEPOOL_RETURN_IF_ERROR(runtime_.ChargeBytes(stmt.text.size()));
      out->append(stmt.text);
      MOEPOOL_RETURN_IF_ERROR(runtime_.CheckSize(out->size()));
      return flow;
    case StmtKind::kPrint:
    case StmtKind::kSet: {
      MOEPOOL_ASSIGN_OR_RETURN(const Value value, Eval(*stmt.expr, scope));
      MOEPOOL_RETURN_IF_ERROR(stmt.kind == StmtKind::kPrint ? AppendText(runtime_, value, out)
                                                            : Assign(stmt.target, value, scope));
      return flow;
    }
    case StmtKind::kFor: {
      MOEPOOL_ASSIGN_OR_RETURN(const Value sequence, Eval(*stmt.expr, scope));
      MOEPOOL_RETURN_IF_ERROR(ExecLoop(stmt, sequence, scope, 0, out));
      return flow;
    }
    case StmtKind::kIf:
      return ExecIf(stmt, scope, out);
    case StmtKind::kSetBlock:
    case StmtKind::kFilter: {
      MOEPOOL_ASSIGN_OR_RETURN(const Value value, Capture(stmt, scope, &flow));
      if (flow != Flow::kNext) return flow;
      MOEPOOL_RETURN_IF_ERROR(stmt.kind == StmtKind::kFilter ? AppendText(runtime_, value, out)
                                                             : Assign(stmt.target, value, scope));
      return flow;
    }
    case StmtKind::kMacro:
      MOEPOOL_RETURN_IF_ERROR(ExecMacro(stmt, scope));
      return flow;
    case StmtKind::kCall:
      MOEPOOL_RETURN_IF_ERROR(ExecCall(stmt, scope, out));
      return flow;
    case StmtKind::kWith: {
      const ScopePtr inner = NewScope(scope);
      MOEPOOL_RETURN_IF_ERROR(ExecWith(stmt, scope, inner.get()));
      return Exec(stmt.body, inner, out);
    }
    case StmtKind::kGeneration:
      return Exec(stmt.body, NewScope(scope), out);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return absl::InternalError("unknown statement");
}

absl::StatusOr<Flow> Evaluator::ExecIf(const Stmt& stmt, const ScopePtr& scope, std::string* out) {
  for (const auto& [condition, body] : stmt.branches) {
    MOEPOOL_ASSIGN_OR_RETURN(const Value value, Eval(*condition, scope));
    if (IsTrue(value)) return Exec(body, scope, out);
  }
  return Exec(stmt.otherwise, scope, out);
}

absl::Status Evaluator::ExecMacro(const Stmt& stmt, const ScopePtr& scope) {
  MOEPOOL_ASSIGN_OR_RETURN(Object * macro, runtime_.New<Macro>(*this, stmt.text, stmt, scope));
  scope->variables[stmt.text] = Value(macro);
  return absl::OkStatus();
}

absl::Status Evaluator::ExecCall(const Stmt& stmt, const ScopePtr& scope, std::string* out) {
  MOEPOOL_ASSIGN_OR_RETURN(Object * caller, runtime_.New<Macro>(*this, "caller", stmt, scope));
  MOEPOOL_ASSIGN_OR_RETURN(const Value value, EvalCall(*stmt.expr, scope, caller));
  return AppendText(runtime_, value, out);
}

// The values belong to the outer scope: one binding does not see another.
absl::Status Evaluator::ExecWith(const Stmt& stmt, const ScopePtr& scope, Scope* inner) {
  for (const auto& [target, expr] : stmt.bindings) {
    MOEPOOL_ASSIGN_OR_RETURN(inner->variables[target.name], Eval(*expr, scope));
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Evaluator::Capture(const Stmt& stmt, const ScopePtr& scope, Flow* flow) {
  std::string text;
  MOEPOOL_ASSIGN_OR_RETURN(*flow, Exec(stmt.body, NewScope(scope), &text));
  MOEPOOL_ASSIGN_OR_RETURN(captured_, runtime_.NewString(std::move(text)));
  return Eval(*stmt.expr, scope);
}

absl::Status Evaluator::ExecLoop(const Stmt& stmt, const Value& sequence, const ScopePtr& scope, int depth,
                                 std::string* out) {
  MOEPOOL_ASSIGN_OR_RETURN(std::vector<Value> items, Items(runtime_, sequence));
  MOEPOOL_ASSIGN_OR_RETURN(Loop * loop, runtime_.New<Loop>(*this, stmt, scope, std::move(items), depth));
  bool any = false;
  while (true) {
    MOEPOOL_ASSIGN_OR_RETURN(const bool more, loop->Next(runtime_));
    if (!more) break;
    any = true;
    MOEPOOL_RETURN_IF_ERROR(runtime_.Charge(1));
    const ScopePtr inner = NewScope(scope);
    MOEPOOL_RETURN_IF_ERROR(Assign(stmt.target, loop->Current(), inner));
    inner->variables["loop"] = Value(static_cast<Object*>(loop));
    MOEPOOL_ASSIGN_OR_RETURN(const Flow flow, Exec(stmt.body, inner, out));
    if (flow == Flow::kBreak) break;
  }
  loop->Release();
  if (any) return absl::OkStatus();
  return Exec(stmt.otherwise, NewScope(scope), out).status();
}

absl::Status Evaluator::Assign(const Target& target, const Value& value, const ScopePtr& scope) {
  if (!target.items.empty()) {
    MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime_, value));
    if (items.size() != target.items.size()) {
      return TypeError(StrCat("cannot unpack ", items.size(), " values into ", target.items.size()));
    }
    for (size_t i = 0; i < items.size(); ++i)
      MOEPOOL_RETURN_IF_ERROR(Assign(target.items[i], items[i], scope));
    return absl::OkStatus();
  }
  if (target.attribute.empty()) {
    scope->variables[target.name] = value;
    return absl::OkStatus();
  }
  for (const Scope* s = scope.get(); s != nullptr; s = s->parent.get()) {
    const auto it = s->variables.find(target.name);
    if (it == s->variables.end()) continue;
    auto* const names = it->second.IsObject() ? dynamic_cast<Namespace*>(it->second.AsObject()) : nullptr;
    if (names == nullptr) break;
    MOEPOOL_RETURN_IF_ERROR(names->Set(target.attribute, value));
    return absl::OkStatus();
  }
  return TypeError(
      StrCat("cannot assign attribute '", target.attribute, "': '", target.name, "' is not a namespace"));
}

}  // namespace moepool::jinja
