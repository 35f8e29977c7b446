#include "gateway/chat_messages.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxTools = 128;
constexpr size_t kMaxToolNameBytes = 64;

absl::Status NotA(const std::string& field, const ordered_json& value, const char* what) {
  return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not ", what));
}

absl::Status ReadContent(const std::string& field, const ordered_json& value, ChatMessage* out) {
  if (value.is_string()) return ReadJson(field, value, &out->content);
  if (!value.is_array()) return NotA(field, value, "a string or a list of text parts");
  std::vector<std::string> texts;
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string at = absl::StrCat(field, "[", i, "]");
    const ordered_json& part = value[i];
    if (!part.is_object()) return NotA(at, part, "an object");
    const auto type = part.find("type");
    if (type == part.end()) return InvalidField(absl::StrCat(at, ".type"), "is missing");
    if (!type->is_string()) return NotA(absl::StrCat(at, ".type"), *type, "a string");
    // OpenAI's clients send a refusal back as the assistant said it: in a part of its own.
    const char* const member = *type == "refusal" ? "refusal" : "text";
    if (*type != member) {
      return InvalidField(absl::StrCat(at, ".type"),
                          absl::StrCat("is '", type->get<std::string>().substr(0, kMaxShownKeyBytes),
                                       "', and only text is served"));
    }
    const std::string member_at = absl::StrCat(at, ".", member);
    const auto text = part.find(member);
    if (text == part.end()) return InvalidField(member_at, "is missing");
    MOEPOOL_RETURN_IF_ERROR(ReadJson(member_at, *text, &texts.emplace_back()));
  }
  out->content = absl::StrJoin(texts, "\n");
  return absl::OkStatus();
}

absl::Status ReadToolCalls(const std::string& field, const ordered_json& value, ChatMessage* out) {
  if (!value.is_array()) return NotA(field, value, "a list");
  if (value.empty()) return absl::OkStatus();
  ordered_json calls = ordered_json::array();
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string at = absl::StrCat(field, "[", i, "]");
    if (!value[i].is_object()) return NotA(at, value[i], "an object");
    const auto function = value[i].find("function");
    if (function == value[i].end()) return InvalidField(absl::StrCat(at, ".function"), "is missing");
    if (!function->is_object()) return NotA(absl::StrCat(at, ".function"), *function, "an object");
    ordered_json call;
    if (const auto id = value[i].find("id"); id != value[i].end() && !id->is_null()) {
      std::string text;
      MOEPOOL_RETURN_IF_ERROR(ReadJson(absl::StrCat(at, ".id"), *id, &text));
      call["id"] = text;
    }
    call["type"] = "function";
    const auto name = function->find("name");
    if (name == function->end()) return InvalidField(absl::StrCat(at, ".function.name"), "is missing");
    if (!name->is_string()) return NotA(absl::StrCat(at, ".function.name"), *name, "a string");
    if (name->get_ref<const std::string&>().empty()) {
      return InvalidField(absl::StrCat(at, ".function.name"), "is empty");
    }
    call["function"]["name"] = *name;
    const auto arguments = function->find("arguments");
    if (arguments == function->end() || arguments->is_null()) {
      call["function"]["arguments"] = ordered_json::object();
    } else if (arguments->is_string() || arguments->is_object()) {
      call["function"]["arguments"] = *arguments;
    } else {
      return NotA(absl::StrCat(at, ".function.arguments"), *arguments, "a string or an object");
    }
    calls.push_back(std::move(call));
  }
  out->fields["tool_calls"] = std::move(calls);
  return absl::OkStatus();
}

JsonField<ChatMessage> TextField(const char* name) {
  return {name, [name](const std::string& field, const ordered_json& value, ChatMessage* out) {
            std::string text;
            MOEPOOL_RETURN_IF_ERROR(ReadJson(field, value, &text));
            out->fields[name] = std::move(text);
            return absl::OkStatus();
          }};
}

const JsonFields<ChatMessage>& MessageFields() {
  static const auto* const fields = new JsonFields<ChatMessage>{
      FieldAt<ChatMessage>("role", [](ChatMessage& m) { return &m.role; }),
      {"content", ReadContent},
      {"tool_calls", ReadToolCalls},
      TextField("name"),
      TextField("tool_call_id"),
      TextField("reasoning_content"),
      TextField("refusal"),
  };
  return *fields;
}

absl::Status ReadFunction(const std::string& field, const ordered_json& tool, ordered_json* out) {
  if (!tool.is_object()) return NotA(field, tool, "an object");
  const auto type = tool.find("type");
  if (type != tool.end() && *type != "function") {
    return InvalidField(absl::StrCat(field, ".type"), "is not 'function', which alone is served");
  }
  const std::string at = absl::StrCat(field, ".function");
  const auto function = tool.find("function");
  if (function == tool.end()) return InvalidField(at, "is missing");
  if (!function->is_object()) return NotA(at, *function, "an object");
  const auto name = function->find("name");
  if (name == function->end()) return InvalidField(absl::StrCat(at, ".name"), "is missing");
  if (!name->is_string()) return NotA(absl::StrCat(at, ".name"), *name, "a string");
  const std::string& text = name->get_ref<const std::string&>();
  if (text.empty() || text.size() > kMaxToolNameBytes) {
    return InvalidField(absl::StrCat(at, ".name"),
                        absl::StrCat("has ", text.size(), " bytes, not 1 to ", kMaxToolNameBytes));
  }
  for (const char c : text) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.') continue;
    return InvalidField(absl::StrCat(at, ".name"),
                        "has characters other than letters, digits, '_', '-', '.'");
  }
  const auto parameters = function->find("parameters");
  if (parameters != function->end() && !parameters->is_object() && !parameters->is_null()) {
    return NotA(absl::StrCat(at, ".parameters"), *parameters, "an object");
  }
  *out = {{"type", "function"}, {"function", *function}};
  if (parameters == function->end() || parameters->is_null()) {
    (*out)["function"]["parameters"] = {{"type", "object"}, {"properties", ordered_json::object()}};
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> MessageFieldNames() { return FieldNames(MessageFields()); }

absl::Status ReadMessages(const std::string& field, const ordered_json& value, UnknownFields unknown,
                          std::vector<ChatMessage>* out) {
  if (!value.is_array()) return NotA(field, value, "a list");
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string at = absl::StrCat(field, "[", i, "]");
    ChatMessage& message = out->emplace_back();
    MOEPOOL_RETURN_IF_ERROR(ReadObject(at, value[i], MessageFields(), unknown, &message));
    if (!value[i].contains("role")) return InvalidField(absl::StrCat(at, ".role"), "is missing");
    const auto content = value[i].find("content");
    const bool has_content = content != value[i].end() && !content->is_null();
    if (const auto refusal = message.fields.find("refusal"); refusal != message.fields.end()) {
      if (!has_content) message.content = refusal->get<std::string>();
      message.fields.erase(refusal);
      continue;
    }
    if (has_content) continue;
    if (!message.fields.contains("tool_calls")) {
      return InvalidField(absl::StrCat(at, ".content"), "is missing");
    }
    message.fields["content"] = nullptr;
  }
  return absl::OkStatus();
}

absl::Status ReadTools(const std::string& field, const ordered_json& value, ordered_json* out) {
  if (!value.is_array()) return NotA(field, value, "a list");
  if (value.size() > kMaxTools) {
    return InvalidField(field, absl::StrCat("has ", value.size(), " tools, more than ", kMaxTools));
  }
  *out = ordered_json::array();
  absl::flat_hash_set<std::string> names;
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string at = absl::StrCat(field, "[", i, "]");
    ordered_json tool;
    MOEPOOL_RETURN_IF_ERROR(ReadFunction(at, value[i], &tool));
    if (!names.insert(tool["function"]["name"].get<std::string>()).second) {
      return InvalidField(absl::StrCat(at, ".function.name"), "is given twice");
    }
    out->push_back(std::move(tool));
  }
  if (out->empty()) *out = nullptr;
  return absl::OkStatus();
}

}  // namespace moepool
