#include "common/constrain/tool_call_grammar.h"

#include <map>
#include <memory>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/constrain/grammar.h"
#include "common/constrain/grammar_text.h"
#include "common/constrain/schema_compiler.h"

namespace moepool {
namespace {

constexpr std::string_view kSpace = " \n";

bool IsToken(std::string_view piece, std::span<const std::string> tokens) {
  for (const std::string& token : tokens) {
    if (piece == token) return true;
  }
  return false;
}

// A part of a form as an expression.
std::string Spelled(std::string_view text, const ToolCallForm& form) {
  std::string out;
  const auto space = [&out](size_t most) {
    if (most > 0) out += most == 1 ? "[ \\n]? " : StrCat("[ \\n]{0,", most, "} ");
  };
  size_t at = 0;
  for (const std::string& piece : SplitSpelling(text, form.tokens)) {
    const size_t found = text.find(piece, at);
    space(found - at);
    out += StrCat(IsToken(piece, form.tokens) ? "@" : "", GrammarLiteral(piece), " ");
    at = found + piece.size();
  }
  space(text.size() - at);
  return out;
}

// The beginnings of texts, by characters.
struct Beginnings {
  std::map<char, std::unique_ptr<Beginnings>> next;

  void Add(std::string_view text) {
    Beginnings* node = this;
    for (const char c : text) {
      std::unique_ptr<Beginnings>& next_node = node->next[c];
      if (next_node == nullptr) next_node = std::make_unique<Beginnings>();
      node = next_node.get();
    }
  }

  // An expression for all texts that begin with none of them. White space before them does not count.
  std::string OtherTexts(bool first, GrammarText* text) const {
    std::vector<CodePointRange> ranges;
    std::string body = "\"\"";
    for (const auto& [c, node] : next) {
      const auto code_point = static_cast<char32_t>(static_cast<unsigned char>(c));
      ranges.push_back({code_point, code_point});
      if (!node->next.empty()) {
        body += StrCat(" | ", GrammarLiteral(std::string(1, c)), " ", node->OtherTexts(false, text));
      }
    }
    if (first) ranges.insert(ranges.end(), {{'\t', '\n'}, {'\r', '\r'}, {' ', ' '}});
    body += StrCat(" | ", GrammarClass(CodePointSet(std::move(ranges)).Complement()), " .*");
    const std::string name = text->Add(body);
    return first ? StrCat("[ \\t\\r\\n]* ", name) : name;
  }
};

std::string_view WithoutSpaceBehind(std::string_view text) {
  return text.substr(0, text.find_last_not_of(kSpace) + 1);
}

}  // namespace

std::vector<std::string> SplitSpelling(std::string_view text, std::span<const std::string> tokens) {
  std::vector<std::string> pieces;
  while (!text.empty()) {
    size_t at = text.size();
    std::string_view first;
    for (const std::string& token : tokens) {
      const size_t found = text.find(token);
      if (found >= at) continue;
      at = found;
      first = token;
    }
    const std::string_view before = WithoutSpaceBehind(text.substr(0, at));
    const size_t begin = before.find_first_not_of(kSpace);
    if (begin != std::string_view::npos) pieces.emplace_back(before.substr(begin));
    if (!first.empty()) pieces.emplace_back(first);
    text.remove_prefix(at + first.size());
  }
  return pieces;
}

absl::StatusOr<std::string> ToolCallGrammar(const ToolCallForm& form, std::span<const ToolCallChoice> choices,
                                            const ToolCallText& wanted) {
  if (choices.empty()) return absl::InvalidArgumentError("there are no tools to call");
  GrammarText text;
  std::string calls;
  Beginnings beginnings;
  for (const ToolCallChoice& choice : choices) {
    Json schema = choice.parameters;
    if (schema.is_null() || schema == Json::object()) schema = {{"type", "object"}};
    auto arguments = SchemaCompiler(schema, &text).Compile();
    if (!arguments.ok()) {
      return absl::InvalidArgumentError(
          StrCat("tool ", choice.name, ": ", ToStd(arguments.status().message())));
    }
    const std::string before = StrCat(form.before_name, choice.name, form.before_arguments);
    calls += StrCat(calls.empty() ? "" : " | ", Spelled(before, form), text.Add(*arguments), " ",
                    Spelled(form.after_arguments, form));
    beginnings.Add(WithoutSpaceBehind(before));
  }
  const std::string call = text.Add(calls);
  const std::string more = wanted.many && form.several ? StrCat("(", Spelled(form.between, form), call,
                                                                "){0,", kMaxToolCalls - 1, "} ")
                                                       : "";
  std::string root =
      StrCat(Spelled(form.before_first, form), call, " ", more, Spelled(form.after_last, form));
  if (wanted.begins_with_marker) {
    const std::string marker = Spelled(form.marker, form);
    root = StrCat(form.marker_needed ? marker : StrCat("(", marker, ")? "), "[ \\n]{0,2} ", root);
    if (wanted.or_any_text) root += StrCat(" | ", beginnings.OtherTexts(/*first=*/true, &text));
    if (wanted.or_schema != nullptr) {
      MOEPOOL_ASSIGN_OR_RETURN(const std::string value, SchemaCompiler(*wanted.or_schema, &text).Compile());
      root += StrCat(" | ", value);
    }
  }
  std::string grammar = text.Finish(root);
  if (grammar.size() > kMaxGrammarBytes) {
    return absl::InvalidArgumentError(StrCat("the tools make a grammar of ", grammar.size(),
                                             " bytes, at most ", kMaxGrammarBytes, " are possible"));
  }
  return grammar;
}

}  // namespace moepool
