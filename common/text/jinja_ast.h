// The parsed template. Immutable after parsing, so renderings may share it between threads. One struct of
// expressions and one of statements: what the fields hold is noted at each kind.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/text/jinja_value.h"

namespace moepool::jinja {

enum class ExprKind {
  kConstant,     // value
  kCaptured,     // the text of the block that a filter is applied to
  kName,         // name
  kList,         // args
  kTuple,        // args
  kDict,         // args: key, value, key, value, …
  kNegate,       // args[0]
  kPlus,         // args[0]
  kNot,          // args[0]
  kArithmetic,   // name is the operator; args[0], args[1]
  kConcat,       // args
  kAnd,          // args[0], args[1]
  kOr,           // args[0], args[1]
  kCompare,      // args[0] operators[0] args[1] operators[1] args[2] …
  kConditional,  // args: value, condition, otherwise or null
  kAttribute,    // args[0] . name
  kItem,         // args[0] [ args[1] ]
  kSlice,        // args[0] [ args[1] : args[2] : args[3] ], the last three may be null
  kCall,         // args[0] ( args[1…], named, star, double_star )
  kFilter,       // args[0] | name ( args[1…], … )
  kTest,         // args[0] is name ( args[1…], … )
};

struct Expr {
  ExprKind kind;
  int line = 0;
  int depth = 1;  // of the tree below, bounded by the parser
  std::string name;
  Value value;
  std::vector<std::unique_ptr<Expr>> args;
  std::vector<std::string> operators;
  std::vector<std::pair<std::string, std::unique_ptr<Expr>>> named;
  std::unique_ptr<Expr> star, double_star;  // *sequence, **mapping
};
using ExprPtr = std::unique_ptr<Expr>;

// What an assignment assigns to: `name`, `name.attribute`, or a tuple of targets.
struct Target {
  std::string name, attribute;
  std::vector<Target> items;
};

struct Signature {
  std::vector<std::string> names;
  std::vector<ExprPtr> defaults;  // of the last names
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
};

enum class StmtKind {
  kText,        // text
  kPrint,       // expr
  kFor,         // target in expr if test, recursive, body, otherwise
  kIf,          // branches, otherwise
  kSet,         // target = expr
  kSetBlock,    // target = expr (filters over kCaptured) of body
  kMacro,       // text is the name; signature, body
  kCall,        // expr is the call; signature and body are those of `caller`
  kFilter,      // expr (filters over kCaptured) of body
  kWith,        // bindings, body
  kGeneration,  // body
  kBreak,
  kContinue,
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

struct Stmt {
  StmtKind kind;
  int line = 0;
  std::string text;
  Target target;
  ExprPtr expr, test;
  bool recursive = false;
  Block body, otherwise;
  std::vector<std::pair<ExprPtr, Block>> branches;
  std::vector<std::pair<Target, ExprPtr>> bindings;
  Signature signature;
};

}  // namespace moepool::jinja
