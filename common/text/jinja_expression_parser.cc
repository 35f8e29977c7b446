#include "common/text/jinja_expression_parser.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "common/base/status_macros.h"
#include "common/text/jinja_strings.h"

namespace moepool::jinja {
bool ExpressionParser::IsOperator(std::string_view op) const {
  return Current().kind == TokenKind::kOperator && Current().text == op;
}

bool ExpressionParser::IsName(std::string_view name) const {
  return Current().kind == TokenKind::kName && Current().text == name;
}

bool ExpressionParser::TakeOperator(std::string_view op) {
  if (!IsOperator(op)) return false;
  Take();
  return true;
}

bool ExpressionParser::TakeName(std::string_view name) {
  if (!IsName(name)) return false;
  Take();
  return true;
}

absl::Status ExpressionParser::ExpectOperator(std::string_view op) {
  return TakeOperator(op) ? absl::OkStatus() : Unexpected(StrCat("'", op, "'"));
}

absl::Status ExpressionParser::Expect(TokenKind kind, std::string_view what) {
  if (Current().kind != kind) return Unexpected(what);
  Take();
  return absl::OkStatus();
}

absl::StatusOr<std::string> ExpressionParser::ExpectName() {
  if (Current().kind != TokenKind::kName) return Unexpected("a name");
  return Take().text;
}

absl::Status ExpressionParser::Error(int line, std::string_view cause) const {
  return absl::InvalidArgumentError(StrCat("chat template line ", line, ": ", cause));
}

absl::Status ExpressionParser::Unexpected(std::string_view expected) const {
  const std::string found =
      Current().kind == TokenKind::kEnd ? "end of template" : StrCat("'", Current().text, "'");
  return Error(Current().line, StrCat("unexpected ", found, ", expected ", expected));
}

absl::Status ExpressionParser::Level::Check() const {
  if (parser_.level_ <= parser_.max_depth_) return absl::OkStatus();
  return parser_.Error(parser_.Current().line,
                       StrCat("nested more than ", parser_.max_depth_, " levels deep"));
}

absl::Status ExpressionParser::UpdateDepth(Expr* expr) const {
  auto include = [&](const ExprPtr& child) {
    if (child != nullptr) expr->depth = std::max(expr->depth, child->depth + 1);
  };
  for (const ExprPtr& arg : expr->args) include(arg);
  for (const auto& [name, arg] : expr->named) include(arg);
  include(expr->star);
  include(expr->double_star);
  if (expr->depth <= max_depth_) return absl::OkStatus();
  return Error(expr->line, StrCat("an expression nested more than ", max_depth_, " levels deep"));
}

absl::StatusOr<ExprPtr> ExpressionParser::Make(ExprKind kind, int line, std::vector<ExprPtr> args,
                                               std::string name) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  expr->args = std::move(args);
  expr->name = std::move(name);
  MOEPOOL_RETURN_IF_ERROR(UpdateDepth(expr.get()));
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTuple(bool conditional,
                                                     std::initializer_list<std::string_view> end_names,
                                                     bool parenthesised) {
  const int line = Current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) MOEPOOL_RETURN_IF_ERROR(ExpectOperator(","));
    const TokenKind kind = Current().kind;
    if (kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || IsOperator(")") ||
        std::any_of(end_names.begin(), end_names.end(),
                    [&](std::string_view name) { return IsName(name); })) {
      break;
    }
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr item, ParseExpression(conditional));
    items.push_back(std::move(item));
    if (!IsOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (items.empty() && !parenthesised) return Unexpected("an expression");
  return Make(ExprKind::kTuple, line, std::move(items));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseExpression(bool conditional) {
  const Level level(*this);
  MOEPOOL_RETURN_IF_ERROR(level.Check());
  return conditional ? ParseConditional() : ParseOr();
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseConditional() {
  const int line = Current().line;
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr value, ParseOr());
  while (TakeName("if")) {
    ++conditions;
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (TakeName("else")) {
      MOEPOOL_ASSIGN_OR_RETURN(otherwise, ParseExpression());
    }
    --conditions;
    MOEPOOL_ASSIGN_OR_RETURN(value,
                             Make(ExprKind::kConditional, line,
                                  Exprs(std::move(value), std::move(condition), std::move(otherwise))));
  }
  return value;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseOr() {
  const int line = Current().line;
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr left, ParseAnd());
  if (!IsName("or")) return left;
  std::vector<ExprPtr> operands = Exprs(std::move(left));
  while (TakeName("or")) {
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr right, ParseAnd());
    operands.push_back(std::move(right));
  }
  return Make(ExprKind::kOr, line, std::move(operands));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseAnd() {
  const int line = Current().line;
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr left, ParseNot());
  if (!IsName("and")) return left;
  std::vector<ExprPtr> operands = Exprs(std::move(left));
  while (TakeName("and")) {
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr right, ParseNot());
    operands.push_back(std::move(right));
  }
  return Make(ExprKind::kAnd, line, std::move(operands));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseNot() {
  if (!IsName("not")) return ParseCompare();
  const Level level(*this);
  MOEPOOL_RETURN_IF_ERROR(level.Check());
  const int line = Take().line;
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
  return Make(ExprKind::kNot, line, Exprs(std::move(operand)));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseCompare() {
  const int line = Current().line;
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr left, ParseSum());
  std::vector<ExprPtr> operands = Exprs(std::move(left));
  std::vector<std::string> operators;
  while (true) {
    static constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
    std::string op;
    if (Current().kind == TokenKind::kOperator &&
        std::find(std::begin(kOperators), std::end(kOperators), Current().text) != std::end(kOperators)) {
      op = Take().text;
    } else if (TakeName("in")) {
      op = "in";
    } else if (IsName("not") && tokens_[at_ + 1].kind == TokenKind::kName && tokens_[at_ + 1].text == "in") {
      Take();
      Take();
      op = "not in";
    } else {
      break;
    }
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr right, ParseSum());
    operands.push_back(std::move(right));
    operators.push_back(std::move(op));
  }
  if (operators.empty()) return std::move(operands[0]);
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr compare, Make(ExprKind::kCompare, line, std::move(operands)));
  compare->operators = std::move(operators);
  return compare;
}

absl::StatusOr<ExprPtr> ExpressionParser::LeftAssociative(
    std::initializer_list<std::string_view> operators,
    absl::StatusOr<ExprPtr> (ExpressionParser::*operand)()) {
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
  while (Current().kind == TokenKind::kOperator &&
         std::find(operators.begin(), operators.end(), Current().text) != operators.end()) {
    Token op = Take();
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
    MOEPOOL_ASSIGN_OR_RETURN(left, Make(ExprKind::kArithmetic, op.line,
                                        Exprs(std::move(left), std::move(right)), std::move(op.text)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSum() {
  return LeftAssociative({"+", "-"}, &ExpressionParser::ParseConcat);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseConcat() {
  const int line = Current().line;
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr left, ParseProduct());
  if (!IsOperator("~")) return left;
  std::vector<ExprPtr> operands = Exprs(std::move(left));
  while (TakeOperator("~")) {
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr right, ParseProduct());
    operands.push_back(std::move(right));
  }
  return Make(ExprKind::kConcat, line, std::move(operands));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseProduct() {
  return LeftAssociative({"*", "/", "//", "%"}, &ExpressionParser::ParsePower);
}

// Unlike Python's, ** groups to the left here and binds less than unary minus.
absl::StatusOr<ExprPtr> ExpressionParser::ParsePower() {
  const int line = Current().line;
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr left, ParseUnary(true));
  while (TakeOperator("**")) {
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr right, ParseUnary(true));
    MOEPOOL_ASSIGN_OR_RETURN(
        left, Make(ExprKind::kArithmetic, line, Exprs(std::move(left), std::move(right)), "**"));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseUnary(bool with_filters) {
  const Level level(*this);
  MOEPOOL_RETURN_IF_ERROR(level.Check());
  const int line = Current().line;
  ExprPtr expr;
  if (IsOperator("-") || IsOperator("+")) {
    const ExprKind kind = Take().text == "-" ? ExprKind::kNegate : ExprKind::kPlus;
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr operand, ParseUnary(false));
    MOEPOOL_ASSIGN_OR_RETURN(expr, Make(kind, line, Exprs(std::move(operand))));
  } else {
    MOEPOOL_ASSIGN_OR_RETURN(expr, ParsePrimary());
  }
  MOEPOOL_ASSIGN_OR_RETURN(expr, ParsePostfix(std::move(expr)));
  return with_filters ? ParseFilterOrTest(std::move(expr)) : std::move(expr);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePrimary() {
  const Token& token = Current();
  if (token.kind == TokenKind::kInt || token.kind == TokenKind::kFloat) return ParseNumber();
  if (IsOperator("[") || IsOperator("{")) return ParseListOrDict();
  if (TakeOperator("(")) {
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr inner, ParseTuple(true, {}, /*parenthesised=*/true));
    MOEPOOL_RETURN_IF_ERROR(ExpectOperator(")"));
    return inner;
  }
  if (token.kind != TokenKind::kName && token.kind != TokenKind::kString) return Unexpected("an expression");
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr expr, Make(ExprKind::kConstant, token.line));
  if (token.kind == TokenKind::kString) {
    std::string text;
    while (Current().kind == TokenKind::kString) text += Take().text;
    expr->value = Value::String(std::move(text));
    return expr;
  }
  const std::string name = Take().text;
  if (name == "true" || name == "True") {
    expr->value = Value(true);
  } else if (name == "false" || name == "False") {
    expr->value = Value(false);
  } else if (name == "none" || name == "None") {
    expr->value = Value::None();
  } else {
    expr->kind = ExprKind::kName;
    expr->name = name;
    if (signature != nullptr) {
      signature->uses_varargs |= name == "varargs";
      signature->uses_kwargs |= name == "kwargs";
      signature->uses_caller |= name == "caller";
    }
  }
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseNumber() {
  const Token token = Take();
  MOEPOOL_ASSIGN_OR_RETURN(ExprPtr expr, Make(ExprKind::kConstant, token.line));
  if (token.kind == TokenKind::kFloat) {
    double value = 0;
    if (!absl::SimpleAtod(token.text, &value)) return Error(token.line, StrCat("bad number ", token.text));
    expr->value = Value(value);
    return expr;
  }
  std::string_view digits = token.text;
  int base = 10;
  if (digits.size() > 2 && digits[0] == '0' && digits[1] > '9') {
    base = (digits[1] | 32) == 'x' ? 16 : (digits[1] | 32) == 'o' ? 8 : 2;
    digits.remove_prefix(2);
  }
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return Error(token.line, StrCat("the integer ", token.text, " does not fit 64 bits"));
  }
  expr->value = Value(value);
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseListOrDict() {
  const Token open = Take();
  const bool is_dict = open.text == "{";
  const std::string_view close = is_dict ? "}" : "]";
  std::vector<ExprPtr> items;
  while (!IsOperator(close)) {
    if (!items.empty()) {
      MOEPOOL_RETURN_IF_ERROR(ExpectOperator(","));
      if (IsOperator(close)) break;
    }
    MOEPOOL_ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    items.push_back(std::move(item));
    if (is_dict) {
      MOEPOOL_RETURN_IF_ERROR(ExpectOperator(":"));
      MOEPOOL_ASSIGN_OR_RETURN(item, ParseExpression());
      items.push_back(std::move(item));
    }
  }
  MOEPOOL_RETURN_IF_ERROR(ExpectOperator(close));
  return Make(is_dict ? ExprKind::kDict : ExprKind::kList, open.line, std::move(items));
}

}  // namespace moepool::jinja
