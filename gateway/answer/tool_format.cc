#include "gateway/answer/tool_format.h"

#include <random>

#include "absl/strings/str_cat.h"

namespace moepool {
namespace {

constexpr std::string_view kDeepSeekCalls = "<｜tool▁calls▁begin｜>";

bool Has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace

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
  form.before_name = "{\"name\": \"";
  form.before_arguments = "\", \"arguments\": ";
  form.after_arguments = "}";
  switch (format) {
    case ToolFormat::kHermes:
      form.marker = "<tool_call>";
      form.before_first = "\n";
      form.between = "\n</tool_call>\n<tool_call>\n";
      form.after_last = "\n</tool_call>";
      form.tokens = {"<tool_call>", "</tool_call>"};
      break;
    case ToolFormat::kLlama:
      form.marker = "<|python_tag|>";
      form.marker_needed = false;
      form.before_arguments = "\", \"parameters\": ";
      form.several = false;
      form.tokens = {"<|python_tag|>"};
      break;
    case ToolFormat::kMistral:
      form.marker = "[TOOL_CALLS]";
      form.tokens = {"[TOOL_CALLS]", "[ARGS]"};
      if (Has(source, "[ARGS]")) {
        form.before_name = "";
        form.before_arguments = "[ARGS]";
        form.after_arguments = "";
        form.between = "[TOOL_CALLS]";
      } else {
        form.before_first = " [";
        form.between = ", ";
        form.after_last = "]";
      }
      break;
    case ToolFormat::kDeepSeek:
      form.marker = kDeepSeekCalls;
      form.before_name = "<｜tool▁call▁begin｜>";
      form.before_arguments = "<｜tool▁sep｜>";
      form.after_arguments = "<｜tool▁call▁end｜>";
      form.after_last = "<｜tool▁calls▁end｜>";
      form.tokens = {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
                     "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"};
      if (Has(source, "```json")) {
        form.before_name = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>";
        form.before_arguments = "\n```json\n";
        form.after_arguments = "\n```<｜tool▁call▁end｜>";
        form.between = "\n";
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
