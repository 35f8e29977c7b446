// How models write calls of tools, and how the gateway has to ask for them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/constrain/tool_call_grammar.h"
#include "nlohmann/json.hpp"

namespace moepool {

enum class ToolFormat : uint8_t {
  kHermes,   // <tool_call>{"name": …, "arguments": {…}}</tool_call>
  kLlama,    // {"name": …, "parameters": {…}}, <|python_tag|> before it or not
  kMistral,  // [TOOL_CALLS][{"name": …, "arguments": {…}}, …], or [TOOL_CALLS]name[ARGS]{…}
  kDeepSeek,  // <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>…name…{…}<｜tool▁call▁end｜>…
};

// The format that a chat template writes calls in, as its text shows; kHermes where `known` is left false.
ToolFormat DetectToolFormat(std::string_view template_source, bool* known);

// How calls are written.
ToolCallForm SpellingOf(ToolFormat format, std::string_view template_source);

// A system message that tells a model of tools of which its template knows nothing, in Hermes's form.
std::string ToolInstructions(const nlohmann::ordered_json& tools);

// A new id for a call, in the form that the format's templates take back.
std::string MakeToolCallId(ToolFormat format);

}  // namespace moepool
