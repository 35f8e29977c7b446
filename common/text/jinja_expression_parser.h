// The expression half of the parser: recursive descent over the token list, one function a precedence level.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/jinja_ast.h"
#include "common/text/jinja_lexer.h"

namespace moepool::jinja {

// A vector of what cannot be copied into an initializer list.
template <typename... T>
std::vector<ExprPtr> Exprs(T... expr) {
  std::vector<ExprPtr> out;
  (out.push_back(std::move(expr)), ...);
  return out;
}

class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, int max_depth)
      : tokens_(std::move(tokens)), max_depth_(max_depth) {}

  // Token stream.
  const Token& Current() const { return tokens_[at_]; }
  Token Take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool IsOperator(std::string_view op) const;
  bool IsName(std::string_view name) const;
  bool TakeOperator(std::string_view op);
  bool TakeName(std::string_view name);
  absl::Status ExpectOperator(std::string_view op);
  absl::Status Expect(TokenKind kind, std::string_view what);
  absl::StatusOr<std::string> ExpectName();
  absl::Status Error(int line, std::string_view cause) const;
  absl::Status Unexpected(std::string_view expected) const;

  // One expression, or a tuple of them separated by commas. `end_names` end a tuple after a trailing comma.
  absl::StatusOr<ExprPtr> ParseTuple(bool conditional = true,
                                     std::initializer_list<std::string_view> end_names = {},
                                     bool parenthesised = false);
  absl::StatusOr<ExprPtr> ParseExpression(bool conditional = true);
  // `filter(args) | filter | …` applied to `input`; the first name stands at the current token.
  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr input);
  absl::StatusOr<ExprPtr> Make(ExprKind kind, int line, std::vector<ExprPtr> args = {},
                               std::string name = "");

  // Counts recursion of the parser, statements included.
  class Level {
   public:
    explicit Level(ExpressionParser& parser) : parser_(parser) { ++parser_.level_; }
    ~Level() { --parser_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    absl::Status Check() const;

   private:
    ExpressionParser& parser_;
  };

  // The macro being parsed notes which of its special variables it uses.
  Signature* signature = nullptr;
  // Above zero behind a condition: an unknown filter or test is then an error only if it is reached.
  int conditions = 0;

 private:
  absl::StatusOr<ExprPtr> ParseConditional();
  absl::StatusOr<ExprPtr> ParseOr();
  absl::StatusOr<ExprPtr> ParseAnd();
  absl::StatusOr<ExprPtr> ParseNot();
  absl::StatusOr<ExprPtr> ParseCompare();
  absl::StatusOr<ExprPtr> ParseSum();
  absl::StatusOr<ExprPtr> ParseConcat();
  absl::StatusOr<ExprPtr> ParseProduct();
  absl::StatusOr<ExprPtr> ParsePower();
  absl::StatusOr<ExprPtr> ParseUnary(bool with_filters);
  absl::StatusOr<ExprPtr> ParsePrimary();
  absl::StatusOr<ExprPtr> ParseNumber();
  absl::StatusOr<ExprPtr> ParseListOrDict();
  absl::StatusOr<ExprPtr> ParsePostfix(ExprPtr expr);
  absl::StatusOr<ExprPtr> ParseSubscript(ExprPtr expr);
  absl::StatusOr<ExprPtr> ParseIndex(ExprPtr expr, int line);
  absl::StatusOr<ExprPtr> ParseFilterOrTest(ExprPtr expr);
  absl::StatusOr<ExprPtr> ParseTest(ExprPtr expr);
  // Adds the parenthesised arguments at the current token to `call`.
  absl::Status ParseCallArguments(Expr* call);
  absl::StatusOr<ExprPtr> LeftAssociative(std::initializer_list<std::string_view> operators,
                                          absl::StatusOr<ExprPtr> (ExpressionParser::*operand)());
  absl::Status UpdateDepth(Expr* expr) const;

  const std::vector<Token> tokens_;
  const int max_depth_;
  size_t at_ = 0;
  int level_ = 0;
};

}  // namespace moepool::jinja
