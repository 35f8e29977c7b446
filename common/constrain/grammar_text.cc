#include "common/constrain/grammar_text.h"

#include <vector>

#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

struct SharedRule {
  std::string_view name;
  std::string_view body;
  std::vector<std::string_view> uses;
};

// White space, digits and exponents are bounded, so that no model goes on with them for ever; numbers fit a
// double, and integers 64 bits.
const SharedRule kShared[] = {
    {"ws", R"((" " | "\n" [ \t]{0,40})?)", {}},
    {"hex", "[0-9A-Fa-f]", {}},
    // What follows \u: a character, or two halves of one.
    {"unit",
     R"([0-9A-Ca-cEeFf] hex{3} | [Dd] ([0-7] hex{2} | [89ABab] hex{2} "\\u" [Dd] [C-Fc-f] hex{2}))",
     {"hex"}},
    {"char", R"([^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" unit))", {"unit"}},
    {"string", R"("\"" char* "\"")", {"char"}},
    {"integer", R"("-"? ("0" | [1-9] [0-9]{0,17}))", {}},
    {"number", R"("-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [+\-]? [0-9]{1,2})?)", {}},
    {"boolean", R"("true" | "false")", {}},
    {"null", R"("null")", {}},
    {"object",
     R"("{" ws (string ":" ws value ("," ws string ":" ws value)* ws)? "}")",
     {"ws", "string", "value"}},
    {"array", R"("[" ws (value ("," ws value)* ws)? "]")", {"ws", "value"}},
    {"value",
     "object | array | string | number | boolean | null",
     {"object", "array", "string", "number", "boolean", "null"}},
};

}  // namespace

std::string GrammarText::Add(std::string_view body) {
  std::string name = Reserve();
  Define(name, body);
  return name;
}

std::string GrammarText::Reserve() { return StrCat("r", rules_++); }

void GrammarText::Define(std::string_view name, std::string_view body) {
  text_ += StrCat(name, " ::= ", body, "\n");
}

std::string GrammarText::Use(std::string_view name) {
  if (!used_.contains(name)) {
    const SharedRule* found = nullptr;
    for (const SharedRule& rule : kShared) {
      if (rule.name == name) found = &rule;
    }
    MOEPOOL_CHECK(found != nullptr);
    used_.emplace(name);
    Define(name, found->body);
    for (const std::string_view other : found->uses) Use(other);
  }
  return std::string(name);
}

std::string GrammarText::Finish(std::string_view root) { return StrCat("root ::= ", root, "\n", text_); }

}  // namespace moepool
