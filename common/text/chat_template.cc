#include "common/text/chat_template.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/jinja_builtins.h"
#include "common/text/jinja_eval.h"
#include "common/text/jinja_parser.h"

namespace moepool {
namespace {

using jinja::Runtime;
using jinja::Value;
using Json = nlohmann::ordered_json;

absl::StatusOr<Value> FromJson(Runtime& runtime, const Json& json, int depth) {
  if (depth > runtime.limits().depth) {
    return absl::ResourceExhaustedError(absl::StrCat("chat template variables are nested more than ",
                                                     runtime.limits().depth, " levels deep"));
  }
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value(json.get<bool>());
    case Json::value_t::number_float:
      return Value(json.get<double>());
    case Json::value_t::number_integer:
      return Value(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX) {
        return absl::InvalidArgumentError(absl::StrCat("chat template variables hold the integer ",
                                                       json.get<uint64_t>(), ", beyond 64 signed bits"));
      }
      return Value(static_cast<int64_t>(json.get<uint64_t>()));
    case Json::value_t::string:
      return runtime.NewString(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      std::vector<Value> items;
      for (const Json& item : json) {
        MOEPOOL_ASSIGN_OR_RETURN(Value value, FromJson(runtime, item, depth + 1));
        items.push_back(std::move(value));
      }
      return runtime.NewList(std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> entries;
      for (const auto& [key, item] : json.items()) {
        MOEPOOL_ASSIGN_OR_RETURN(Value value, FromJson(runtime, item, depth + 1));
        entries.emplace_back(Value::String(key), std::move(value));
      }
      return runtime.NewDict(std::move(entries));
    }
    default:
      return Value::None();
  }
}

class JinjaChatTemplate : public ChatTemplate {
 public:
  JinjaChatTemplate(jinja::Block root, ChatTemplateLimits limits) : root_(std::move(root)), limits_(limits) {}

  absl::StatusOr<std::string> Render(const Json& variables, absl::Time now) const override {
    if (!variables.is_object())
      return absl::InvalidArgumentError("chat template variables are not an object");
    Runtime runtime(limits_, now);
    auto context = std::make_shared<jinja::Scope>();
    MOEPOOL_RETURN_IF_ERROR(jinja::AddGlobals(runtime, &context->variables));
    for (const auto& [name, json] : variables.items()) {
      MOEPOOL_ASSIGN_OR_RETURN(context->variables[name], FromJson(runtime, json, 1));
    }
    // What the template sets at its top level hides the context and leaves it as it is.
    auto scope = std::make_shared<jinja::Scope>();
    scope->parent = std::move(context);
    jinja::Evaluator evaluator(runtime);
    std::string out;
    MOEPOOL_RETURN_IF_ERROR(evaluator.Run(root_, scope, &out));
    return out;
  }

 private:
  const jinja::Block root_;
  const ChatTemplateLimits limits_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(std::string_view source,
                                                                  ChatTemplateLimits limits) {
  MOEPOOL_ASSIGN_OR_RETURN(jinja::Block root, jinja::ParseTemplate(source, limits.depth));
  return std::make_unique<JinjaChatTemplate>(std::move(root), limits);
}

}  // namespace moepool
