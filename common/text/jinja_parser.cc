#include "common/text/jinja_parser.h"

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_expression_parser.h"

namespace moepool::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;

class Parser {
 public:
  Parser(std::vector<Token> tokens, int max_depth) : in_(std::move(tokens), max_depth) {}

  absl::StatusOr<Block> Run() { return ParseBlock({}); }

 private:
  // Statements up to a tag with one of these names, at which the stream then stands; or up to the end where
  // there are no names.
  absl::StatusOr<Block> ParseBlock(Names ends) {
    const ExpressionParser::Level level(in_);
    MOEPOOL_RETURN_IF_ERROR(level.Check());
    Block block;
    while (in_.Current().kind != TokenKind::kEnd) {
      const Token token = in_.Take();
      if (token.kind == TokenKind::kData) {
        auto stmt = MakeStmt(StmtKind::kText, token.line);
        stmt->text = token.text;
        block.push_back(std::move(stmt));
      } else if (token.kind == TokenKind::kVariableBegin) {
        auto stmt = MakeStmt(StmtKind::kPrint, token.line);
        MOEPOOL_ASSIGN_OR_RETURN(stmt->expr, in_.ParseTuple());
        MOEPOOL_RETURN_IF_ERROR(in_.Expect(TokenKind::kVariableEnd, "'}}'"));
        block.push_back(std::move(stmt));
      } else {
        for (std::string_view end : ends) {
          if (in_.IsName(end)) return block;
        }
        MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Stmt> stmt, ParseTag(token.line));
        MOEPOOL_RETURN_IF_ERROR(in_.Expect(TokenKind::kBlockEnd, "'%}'"));
        block.push_back(std::move(stmt));
      }
    }
    if (ends.size() > 0) return in_.Unexpected(StrCat("'", *(ends.end() - 1), "'"));
    return block;
  }

  // `%}`, then statements up to a tag named in `ends`, at whose name the stream then stands.
  absl::StatusOr<Block> ParseBody(Names ends) {
    in_.TakeOperator(":");
    MOEPOOL_RETURN_IF_ERROR(in_.Expect(TokenKind::kBlockEnd, "'%}'"));
    return ParseBlock(ends);
  }

  // The same for a body with one end, which is taken.
  absl::StatusOr<Block> ParseBodyTo(std::string_view end) {
    MOEPOOL_ASSIGN_OR_RETURN(Block body, ParseBody({end}));
    in_.Take();
    return body;
  }

  std::unique_ptr<Stmt> MakeStmt(StmtKind kind, int line) {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = line;
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> ParseTag(int line) {
    MOEPOOL_ASSIGN_OR_RETURN(const std::string name, in_.ExpectName());
    if (name == "for") return ParseFor(line);
    if (name == "if") return ParseIf(line);
    if (name == "set") return ParseSet(line);
    if (name == "macro") return ParseMacro(line);
    if (name == "call") return ParseCall(line);
    if (name == "filter") return ParseFilter(line);
    if (name == "with") return ParseWith(line);
    if (name == "generation") {
      auto stmt = MakeStmt(StmtKind::kGeneration, line);
      MOEPOOL_ASSIGN_OR_RETURN(stmt->body, OutsideLoops("endgeneration"));
      return stmt;
    }
    if (name == "print") {
      auto stmt = MakeStmt(StmtKind::kPrint, line);
      std::vector<ExprPtr> items;
      do {
        MOEPOOL_ASSIGN_OR_RETURN(ExprPtr item, in_.ParseExpression());
        items.push_back(std::move(item));
      } while (in_.TakeOperator(","));
      MOEPOOL_ASSIGN_OR_RETURN(stmt->expr, in_.Make(ExprKind::kConcat, line, std::move(items)));
      return stmt;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) return in_.Error(line, StrCat("'", name, "' outside a loop"));
      return MakeStmt(name == "break" ? StmtKind::kBreak : StmtKind::kContinue, line);
    }
    return in_.Error(line, StrCat("unknown or misplaced tag '", name, "'"));
  }

  // A body that a function of its own renders: break and continue do not reach out of it.
  absl::StatusOr<Block> OutsideLoops(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    absl::StatusOr<Block> body = ParseBodyTo(end);
    loops_ = loops;
    return body;
  }

  absl::StatusOr<std::string> ParseTargetName() {
    const int line = in_.Current().line;
    MOEPOOL_ASSIGN_OR_RETURN(std::string name, in_.ExpectName());
    for (std::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
      if (name == constant) return in_.Error(line, StrCat("cannot assign to '", name, "'"));
    }
    return name;
  }

  absl::StatusOr<Target> ParseOneTarget(bool allow_attribute) {
    const ExpressionParser::Level level(in_);
    MOEPOOL_RETURN_IF_ERROR(level.Check());
    if (in_.TakeOperator("(")) {
      MOEPOOL_ASSIGN_OR_RETURN(Target target, ParseTarget(allow_attribute));
      MOEPOOL_RETURN_IF_ERROR(in_.ExpectOperator(")"));
      return target;
    }
    Target target;
    MOEPOOL_ASSIGN_OR_RETURN(target.name, ParseTargetName());
    if (allow_attribute && in_.TakeOperator(".")) {
      MOEPOOL_ASSIGN_OR_RETURN(target.attribute, in_.ExpectName());
    }
    return target;
  }

  absl::StatusOr<Target> ParseTarget(bool allow_attribute) {
    MOEPOOL_ASSIGN_OR_RETURN(Target first, ParseOneTarget(allow_attribute));
    if (!in_.IsOperator(",")) return first;
    Target tuple;
    tuple.items.push_back(std::move(first));
    while (in_.TakeOperator(",")) {
      if (in_.Current().kind == TokenKind::kBlockEnd || in_.IsOperator(")") || in_.IsOperator("=") ||
          in_.IsName("in")) {
        break;
      }
      MOEPOOL_ASSIGN_OR_RETURN(Target next, ParseOneTarget(allow_attribute));
      tuple.items.push_back(std::move(next));
    }
    return tuple;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> ParseFor(int line) {
    auto stmt = MakeStmt(StmtKind::kFor, line);
    MOEPOOL_ASSIGN_OR_RETURN(stmt->target, ParseTarget(false));
    if (stmt->target.name == "loop") return in_.Error(line, "cannot assign to 'loop' in a for tag");
    if (!in_.TakeName("in")) return in_.Unexpected("'in'");
    MOEPOOL_ASSIGN_OR_RETURN(stmt->expr, in_.ParseTuple(/*conditional=*/false, {"recursive"}));
    if (in_.TakeName("if")) {
      MOEPOOL_ASSIGN_OR_RETURN(stmt->test, in_.ParseExpression());
    }
    stmt->recursive = in_.TakeName("recursive");
    ++loops_;
    absl::StatusOr<Block> body = ParseBody({"else", "endfor"});
    --loops_;
    MOEPOOL_ASSIGN_OR_RETURN(stmt->body, std::move(body));
    if (in_.Take().text == "else") {
      MOEPOOL_ASSIGN_OR_RETURN(stmt->otherwise, ParseBodyTo("endfor"));
    }
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> ParseIf(int line) {
    auto stmt = MakeStmt(StmtKind::kIf, line);
    ++in_.conditions;
    std::string tag;
    do {
      MOEPOOL_ASSIGN_OR_RETURN(ExprPtr condition, in_.ParseTuple(/*conditional=*/false));
      MOEPOOL_ASSIGN_OR_RETURN(Block body, ParseBody({"elif", "else", "endif"}));
      stmt->branches.emplace_back(std::move(condition), std::move(body));
      tag = in_.Take().text;
    } while (tag == "elif");
    if (tag == "else") {
      MOEPOOL_ASSIGN_OR_RETURN(stmt->otherwise, ParseBodyTo("endif"));
    }
    --in_.conditions;
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> ParseSet(int line) {
    auto stmt = MakeStmt(StmtKind::kSet, line);
    MOEPOOL_ASSIGN_OR_RETURN(stmt->target, ParseTarget(true));
    if (in_.TakeOperator("=")) {
      MOEPOOL_ASSIGN_OR_RETURN(stmt->expr, in_.ParseTuple());
      return stmt;
    }
    stmt->kind = StmtKind::kSetBlock;
    MOEPOOL_ASSIGN_OR_RETURN(stmt->expr, in_.Make(ExprKind::kCaptured, line));
    if (in_.TakeOperator("|")) {
      MOEPOOL_ASSIGN_OR_RETURN(stmt->expr, in_.ParseFilters(std::move(stmt->expr)));
    }
    MOEPOOL_ASSIGN_OR_RETURN(stmt->body, ParseBodyTo("endset"));
    return stmt;
  }

  absl::Status ParseSignature(Signature* signature) {
    MOEPOOL_RETURN_IF_ERROR(in_.ExpectOperator("("));
    while (!in_.IsOperator(")")) {
      if (!signature->names.empty()) MOEPOOL_RETURN_IF_ERROR(in_.ExpectOperator(","));
      const int line = in_.Current().line;
      MOEPOOL_ASSIGN_OR_RETURN(std::string name, ParseTargetName());
      signature->names.push_back(std::move(name));
      if (in_.TakeOperator("=")) {
        MOEPOOL_ASSIGN_OR_RETURN(ExprPtr value, in_.ParseExpression());
        signature->defaults.push_back(std::move(value));
      } else if (!signature->defaults.empty()) {
        return in_.Error(line, "an argument without a default follows one with a default");
      }
    }
    return in_.ExpectOperator(")");
  }

  absl::StatusOr<Block> ParseMacroBody(Signature* signature, std::string_view end) {
    Signature* const outer = std::exchange(in_.signature, signature);
    absl::StatusOr<Block> body = OutsideLoops(end);
    in_.signature = outer;
    return body;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> ParseMacro(int line) {
    auto stmt = MakeStmt(StmtKind::kMacro, line);
    MOEPOOL_ASSIGN_OR_RETURN(stmt->text, ParseTargetName());
    MOEPOOL_RETURN_IF_ERROR(ParseSignature(&stmt->signature));
    MOEPOOL_ASSIGN_OR_RETURN(stmt->body, ParseMacroBody(&stmt->signature, "endmacro"));
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> ParseCall(int line) {
    auto stmt = MakeStmt(StmtKind::kCall, line);
    if (in_.IsOperator("(")) MOEPOOL_RETURN_IF_ERROR(ParseSignature(&stmt->signature));
    MOEPOOL_ASSIGN_OR_RETURN(stmt->expr, in_.ParseExpression());
    if (stmt->expr->kind != ExprKind::kCall) return in_.Error(line, "expected a call");
    MOEPOOL_ASSIGN_OR_RETURN(stmt->body, ParseMacroBody(&stmt->signature, "endcall"));
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> ParseFilter(int line) {
    auto stmt = MakeStmt(StmtKind::kFilter, line);
    MOEPOOL_ASSIGN_OR_RETURN(stmt->expr, in_.Make(ExprKind::kCaptured, line));
    MOEPOOL_ASSIGN_OR_RETURN(stmt->expr, in_.ParseFilters(std::move(stmt->expr)));
    MOEPOOL_ASSIGN_OR_RETURN(stmt->body, ParseBodyTo("endfilter"));
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> ParseWith(int line) {
    auto stmt = MakeStmt(StmtKind::kWith, line);
    while (in_.Current().kind != TokenKind::kBlockEnd) {
      if (!stmt->bindings.empty()) MOEPOOL_RETURN_IF_ERROR(in_.ExpectOperator(","));
      MOEPOOL_ASSIGN_OR_RETURN(Target target, ParseOneTarget(false));
      MOEPOOL_RETURN_IF_ERROR(in_.ExpectOperator("="));
      MOEPOOL_ASSIGN_OR_RETURN(ExprPtr value, in_.ParseExpression());
      stmt->bindings.emplace_back(std::move(target), std::move(value));
    }
    MOEPOOL_ASSIGN_OR_RETURN(stmt->body, ParseBodyTo("endwith"));
    return stmt;
  }

  ExpressionParser in_;
  int loops_ = 0;
};

}  // namespace

absl::StatusOr<Block> ParseTemplate(std::string_view source, int max_depth) {
  MOEPOOL_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens), max_depth).Run();
}

}  // namespace moepool::jinja
