#include "gateway/answer/tool_format.h"

#include <random>

#include "absl/strings/str_cat.h"

namespace moepool {
namespace {

constexpr std::string_view kDeepSeekCalls = "<｜tool▁calls▁begin｜>";

bool Has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace

std::string_view ToolCallMarker(ToolFormat format) {
  switch (format) {
    case ToolFormat::kHermes:
      return "<tool_call>";
    case ToolFormat::kLlama:
      return "<|python_tag|>";
    case ToolFormat::kMistral:
      return "[TOOL_CALLS]";
    case ToolFormat::kDeepSeek:
      return kDeepSeekCalls;
  }
  return "<tool_call>";
}

ToolFormat DetectToolFormat(std::string_view source, bool* known) {
  *known = true;
  if (Has(source, "[TOOL_CALLS]")) return ToolFormat::kMistral;
  if (Has(source, kDeepSeekCalls)) return ToolFormat::kDeepSeek;
  // Others write elements where Hermes writes JSON.
  if (Has(source, "<tool_call>") && !Has(source, "<function=") && !Has(source, "<arg_key>")) {
    return ToolFormat::kHermes;
  }
  if (Has(source, "<|python_tag|>") || Has(source, "\"parameters\": ")) return ToolFormat::kLlama;
  *known = false;
  return ToolFormat::kHermes;
}

ToolCallForm SpellingOf(ToolFormat format, std::string_view source) {
  ToolCallForm form;
  switch (format) {
    case ToolFormat::kHermes:
      form = {"\n",
              "{\"name\": \"",
              "\", \"arguments\": ",
              "}",
              "\n</tool_call>\n<tool_call>\n",
              "\n</tool_call>"};
      break;
    case ToolFormat::kLlama:
      form = {"", "{\"name\": \"", "\", \"parameters\": ", "}", "", ""};
      break;
    case ToolFormat::kMistral:
      form = {"[", "{\"name\": \"", "\", \"arguments\": ", "}", "", "]"};
      if (Has(source, "[ARGS]")) form = {"", "", "[ARGS]", "", "", ""};
      break;
    case ToolFormat::kDeepSeek:
      form = {"", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
              "", "<｜tool▁calls▁end｜>"};
      if (Has(source, "```json")) {
        form = {"",
                "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
                "\n```json\n",
                "\n```<｜tool▁call▁end｜>",
                "\n",
                "<｜tool▁calls▁end｜>"};
      }
      break;
  }
  return form;
}

std::string ToolInstructions(const nlohmann::ordered_json& tools) {
  std::string text =
      "You can call functions. These are their signatures as JSON, one to a line, within <tools></tools>:\n"
      "<tools>\n";
  for (const nlohmann::ordered_json& tool : tools) absl::StrAppend(&text, tool.dump(), "\n");
  absl::StrAppend(&text,
                  "</tools>\n"
                  "To call one, answer with a JSON object of its name and its arguments, within "
                  "<tool_call></tool_call>:\n"
                  "<tool_call>\n"
                  "{\"name\": \"the function's name\", \"arguments\": {\"an argument\": \"its value\"}}\n"
                  "</tool_call>\n"
                  "What it returns comes within <tool_response></tool_response>.");
  return text;
}

std::string MakeToolCallId(ToolFormat format) {
  static constexpr std::string_view kAlphabet =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  static thread_local std::random_device device;
  const bool mistral = format == ToolFormat::kMistral;  // its templates take nine letters and digits alone
  std::string id = mistral ? "" : "call_";
  for (int i = 0; i < (mistral ? 9 : 24); ++i) id += kAlphabet[device() % kAlphabet.size()];
  return id;
}

}  // namespace moepool
