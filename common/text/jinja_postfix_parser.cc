// What may follow an operand: subscripts, calls, filters and tests.
#include <utility>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_expression_parser.h"
#include "common/text/jinja_strings.h"

namespace moepool::jinja {

absl::StatusOr<ExprPtr> ExpressionParser::ParsePostfix(ExprPtr expr) {
  while (true) {
    if (IsOperator(".") || IsOperator("[")) {
      MOEPOOL_ASSIGN_OR_RETURN(expr, ParseSubscript(std::move(expr)));
    } else if (IsOperator("(")) {
      MOEPOOL_ASSIGN_OR_RETURN(expr, Make(ExprKind::kCall, Current().line, Exprs(std::move(expr))));
      MOEPOOL_RETURN_IF_ERROR(ParseCallArguments(expr.get()));
    } else {
      return expr;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSubscript(ExprPtr expr) {
  const Token open = Take();
  if (open.text == "[") return ParseIndex(std::move(expr), open.line);
  if (Current().kind == TokenKind::kName) {
    std::string name = Take().text;
    return Make(ExprKind::kAttribute, open.line, Exprs(std::move(expr)), std::move(name));
  }
  if (Current().kind != TokenKind::kInt) return Unexpected("a name or number");
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr index, ParseNumber());
  return Make(ExprKind::kItem, open.line, Exprs(std::move(expr), std::move(index)));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseIndex(ExprPtr expr, int line) {
  std::vector<ExprPtr> indices;
  while (!IsOperator("]")) {
    if (!indices.empty()) MOEPOOL_RETURN_IF_ERROR(ExpectOperator(","));
    ExprPtr start;
    if (!IsOperator(":")) {
      MOEPOOL_ASSIGN_OR_RETURN(start, ParseExpression());
      if (!IsOperator(":")) {
        indices.push_back(std::move(start));
        continue;
      }
    }
    std::vector<ExprPtr> slice = Exprs(std::move(expr), std::move(start));
    while (slice.size() < 4 && TakeOperator(":")) {
      ExprPtr bound;
      if (!IsOperator(":") && !IsOperator("]")) {
        MOEPOOL_ASSIGN_OR_RETURN(bound, ParseExpression());
      }
      slice.push_back(std::move(bound));
    }
    slice.resize(4);
    if (!indices.empty()) return Error(line, "a slice cannot be part of a tuple of indices");
    MOEPOOL_RETURN_IF_ERROR(ExpectOperator("]"));
    return Make(ExprKind::kSlice, line, std::move(slice));
  }
  MOEPOOL_RETURN_IF_ERROR(ExpectOperator("]"));
  ExprPtr index;
  if (indices.size() == 1) {
    index = std::move(indices[0]);
  } else {
    MOEPOOL_ASSIGN_OR_RETURN(index, Make(ExprKind::kTuple, line, std::move(indices)));
  }
  return Make(ExprKind::kItem, line, Exprs(std::move(expr), std::move(index)));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFilterOrTest(ExprPtr expr) {
  while (true) {
    if (TakeOperator("|")) {
      MOEPOOL_ASSIGN_OR_RETURN(expr, ParseFilters(std::move(expr)));
    } else if (IsName("is")) {
      MOEPOOL_ASSIGN_OR_RETURN(expr, ParseTest(std::move(expr)));
    } else if (IsOperator("(")) {
      MOEPOOL_ASSIGN_OR_RETURN(expr, Make(ExprKind::kCall, Current().line, Exprs(std::move(expr))));
      MOEPOOL_RETURN_IF_ERROR(ParseCallArguments(expr.get()));
    } else {
      return expr;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFilters(ExprPtr input) {
  do {
    const int line = Current().line;
    MOEPOOL_ASSIGN_OR_RETURN(std::string name, ExpectName());
    while (TakeOperator(".")) {
      MOEPOOL_ASSIGN_OR_RETURN(const std::string part, ExpectName());
      StrAppend(&name, ".", part);
    }
    if (conditions == 0 && FindFilter(name) == nullptr)
      return Error(line, StrCat("no filter named '", name, "'"));
    MOEPOOL_ASSIGN_OR_RETURN(input, Make(ExprKind::kFilter, line, Exprs(std::move(input)), std::move(name)));
    if (IsOperator("(")) MOEPOOL_RETURN_IF_ERROR(ParseCallArguments(input.get()));
  } while (TakeOperator("|"));
  return input;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTest(ExprPtr expr) {
  const int line = Take().line;
  const bool negated = TakeName("not");
  MOEPOOL_ASSIGN_OR_RETURN(std::string name, ExpectName());
  if (conditions == 0 && FindTest(name) == nullptr) return Error(line, StrCat("no test named '", name, "'"));
  MOEPOOL_ASSIGN_OR_RETURN(expr, Make(ExprKind::kTest, line, Exprs(std::move(expr)), std::move(name)));
  const TokenKind kind = Current().kind;
  if (IsOperator("(")) {
    MOEPOOL_RETURN_IF_ERROR(ParseCallArguments(expr.get()));
  } else if ((kind == TokenKind::kName && !IsName("else") && !IsName("or") && !IsName("and")) ||
             kind == TokenKind::kString || kind == TokenKind::kInt || kind == TokenKind::kFloat ||
             IsOperator("[") || IsOperator("{")) {
    if (IsName("is")) return Error(line, "tests cannot be chained with is");
    const Level level(*this);
    MOEPOOL_RETURN_IF_ERROR(level.Check());
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    MOEPOOL_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    expr->args.push_back(std::move(argument));
    MOEPOOL_RETURN_IF_ERROR(UpdateDepth(expr.get()));
  }
  if (!negated) return expr;
  return Make(ExprKind::kNot, line, Exprs(std::move(expr)));
}

absl::Status ExpressionParser::ParseCallArguments(Expr* call) {
  MOEPOOL_RETURN_IF_ERROR(ExpectOperator("("));
  for (bool first = true; !IsOperator(")"); first = false) {
    if (!first) {
      MOEPOOL_RETURN_IF_ERROR(ExpectOperator(","));
      if (IsOperator(")")) break;
    }
    const int line = Current().line;
    if (IsOperator("*") || IsOperator("**")) {
      ExprPtr& slot = Take().text == "*" ? call->star : call->double_star;
      if (slot != nullptr || call->double_star != nullptr) return Error(line, "invalid syntax for a call");
      MOEPOOL_ASSIGN_OR_RETURN(slot, ParseExpression());
    } else if (Current().kind == TokenKind::kName && tokens_[at_ + 1].kind == TokenKind::kOperator &&
               tokens_[at_ + 1].text == "=") {
      std::string name = Take().text;
      Take();
      if (call->double_star != nullptr) return Error(line, "invalid syntax for a call");
      MOEPOOL_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      call->named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call->named.empty() || call->star != nullptr || call->double_star != nullptr) {
        return Error(line, "a positional argument follows a named one");
      }
      MOEPOOL_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      call->args.push_back(std::move(value));
    }
  }
  MOEPOOL_RETURN_IF_ERROR(ExpectOperator(")"));
  return UpdateDepth(call);
}

}  // namespace moepool::jinja
