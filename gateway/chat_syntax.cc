#include "gateway/chat_syntax.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/answer/reasoning_splitter.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

// A name and a value that no template has in its own text.
constexpr char kProbeTool[] = "probe_of_tools";
constexpr char kProbeValue[] = "probe_of_values";

ordered_json Variables(const SpecialText& special) {
  ordered_json variables;
  // None, not undefined, as transformers has it: `tools is not none` is a common question.
  variables["messages"] = ordered_json::array();
  variables["tools"] = nullptr;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = true;
  variables["bos_token"] = special.bos;
  variables["eos_token"] = special.eos;
  return variables;
}

ordered_json ProbeTools() {
  return {{{"type", "function"},
           {"function",
            {{"name", kProbeTool},
             {"description", "none"},
             {"parameters", {{"type", "object"}, {"properties", ordered_json::object()}}}}}}};
}

// A conversation with a call, its arguments as an object or as text.
ordered_json ProbeCall(bool object) {
  ordered_json arguments = {{"key", kProbeValue}};
  if (!object) arguments = arguments.dump();
  ordered_json call = {{"id", "abcdefghi"},
                       {"type", "function"},
                       {"function", {{"name", kProbeTool}, {"arguments", arguments}}}};
  return {{{"role", "user"}, {"content", "x"}},
          {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", ordered_json::array({call})}},
          {{"role", "tool"}, {"content", "1"}, {"tool_call_id", "abcdefghi"}, {"name", kProbeTool}}};
}

// What stands for tools where the template has no place for them.
std::vector<ChatMessage> WithToolsInText(const ChatSyntax& syntax, const ordered_json& tools,
                                         const std::vector<ChatMessage>& messages) {
  std::vector<ChatMessage> plain;
  for (const ChatMessage& message : messages) {
    ChatMessage next = message;
    if (const auto calls = message.fields.find("tool_calls"); calls != message.fields.end()) {
      for (const ordered_json& call : *calls) {
        const ordered_json& arguments = call["function"]["arguments"];
        absl::StrAppend(&next.content, next.content.empty() ? "" : "\n",
                        "<tool_call>\n{\"name\": ", call["function"]["name"].dump(), ", \"arguments\": ",
                        arguments.is_string() ? arguments.get<std::string>() : arguments.dump(),
                        "}\n</tool_call>");
      }
      next.fields = ordered_json::object();
    }
    if (message.role == "tool") {
      next = {"user", absl::StrCat("<tool_response>\n", message.content, "\n</tool_response>"),
              ordered_json::object()};
      // Results of one answer's calls come together: many templates want roles to alternate.
      if (!plain.empty() && plain.back().fields.contains("results")) {
        absl::StrAppend(&plain.back().content, "\n", next.content);
        continue;
      }
      next.fields["results"] = true;
    }
    plain.push_back(std::move(next));
  }
  for (ChatMessage& message : plain) message.fields.erase("results");
  if (tools.is_null()) return plain;
  const std::string instructions = ToolInstructions(tools);
  if (!plain.empty() && (plain[0].role == "system" || plain[0].role == "developer")) {
    absl::StrAppend(&plain[0].content, plain[0].content.empty() ? "" : "\n\n", instructions);
  } else if (syntax.system_role) {
    plain.insert(plain.begin(), {"system", instructions, ordered_json::object()});
  } else if (!plain.empty()) {
    plain[0].content = absl::StrCat(instructions, "\n\n", plain[0].content);
  }
  return plain;
}

ordered_json ToVariable(const ChatSyntax& syntax, const ChatMessage& message) {
  ordered_json object = {{"role", message.role}, {"content", message.content}};
  if (message.role == "developer" && !syntax.developer_role) object["role"] = "system";
  object.update(message.fields);
  const auto calls = object.find("tool_calls");
  if (calls == object.end()) return object;
  for (ordered_json& call : *calls) {
    ordered_json& arguments = call["function"]["arguments"];
    if (syntax.object_arguments && arguments.is_string()) {
      absl::StatusOr<ordered_json> parsed = ParseJson(arguments.get_ref<const std::string&>());
      if (parsed.ok() && parsed->is_object()) arguments = *std::move(parsed);
    } else if (!syntax.object_arguments && arguments.is_object()) {
      arguments = arguments.dump();
    }
  }
  return object;
}

}  // namespace

ChatSyntax DetectChatSyntax(const ChatTemplate& chat_template, std::string_view source,
                            const SpecialText& special, absl::Time now) {
  ChatSyntax syntax;
  const auto render = [&](const ordered_json& messages, const ordered_json& tools) {
    ordered_json variables = Variables(special);
    variables["messages"] = messages;
    variables["tools"] = tools;
    return chat_template.Render(variables, now).value_or("");
  };
  const auto has = [&](std::string_view part) { return source.find(part) != std::string_view::npos; };
  const ordered_json user = {{"role", "user"}, {"content", "x"}};
  bool known = false;
  syntax.format = DetectToolFormat(source, &known);
  syntax.renders_tools =
      known && render(ordered_json::array({user}), ProbeTools()).find(kProbeTool) != std::string::npos;
  if (!syntax.renders_tools) syntax.format = ToolFormat::kHermes;
  syntax.spelling = SpellingOf(syntax.format, syntax.renders_tools ? source : std::string_view());
  const std::string as_object = render(ProbeCall(true), ProbeTools());
  syntax.object_arguments = as_object.find(kProbeValue) != std::string::npos ||
                            render(ProbeCall(false), ProbeTools()).find(kProbeValue) == std::string::npos;
  const ordered_json system = {{"role", "system"}, {"content", kProbeValue}};
  syntax.system_role =
      render(ordered_json::array({system, user}), nullptr).find(kProbeValue) != std::string::npos;
  syntax.developer_role = has("developer");
  syntax.thinks = has(kThinkStart) || has(kThinkEnd);
  return syntax;
}

absl::StatusOr<std::string> RenderChat(const ChatTemplate& chat_template, const ChatSyntax& syntax,
                                       const SpecialText& special, const InferRequest& request,
                                       const std::vector<ChatMessage>& messages, absl::Time now) {
  const bool tools_asked = request.tool_choice.kind != ToolChoiceKind::kNone;
  const ordered_json tools = tools_asked ? request.tools : ordered_json();
  ordered_json variables = Variables(special);
  if (syntax.renders_tools) {
    variables["tools"] = tools;
    for (const ChatMessage& message : messages) variables["messages"].push_back(ToVariable(syntax, message));
  } else {
    for (const ChatMessage& message : WithToolsInText(syntax, tools, messages)) {
      variables["messages"].push_back(ToVariable(syntax, message));
    }
  }
  if (request.template_variables.is_object()) variables.update(request.template_variables);
  absl::StatusOr<std::string> text = chat_template.Render(variables, now);
  if (text.ok()) return text;
  // What the template refuses is the conversation; only a limit is something else.
  return InvalidField("messages",
                      absl::StrCat("are refused by the chat template: ", text.status().message()));
}

}  // namespace moepool
