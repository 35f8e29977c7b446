#include "gateway/served_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace moepool {
namespace {

// Text of a token that a template may write, or an empty string where the model has none.
std::string TokenText(const ServedModel& model, int32_t id) {
  return id < 0 ? std::string() : model.tokenizer->Bytes(id, /*special=*/true);
}

absl::StatusOr<std::vector<int32_t>> EncodeMessages(const ServedModel& model,
                                                    const std::vector<ChatMessage>& messages,
                                                    absl::Time now) {
  if (model.chat_template == nullptr) {
    return InvalidField("messages",
                        absl::StrCat("need a chat template, and the model ", model.info.name, " has none"));
  }
  nlohmann::ordered_json variables;
  variables["messages"] = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages) {
    nlohmann::ordered_json object = {{"role", message.role}, {"content", message.content}};
    object.update(message.fields);
    variables["messages"].push_back(std::move(object));
  }
  // None, not undefined, as transformers has it: `tools is not none` is a common question.
  variables["tools"] = nullptr;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = true;
  variables["bos_token"] = TokenText(model, model.info.tokenizer.bos_id);
  variables["eos_token"] = TokenText(model, model.info.tokenizer.eos_id);
  const absl::StatusOr<std::string> text = model.chat_template->Render(variables, now);
  if (!text.ok()) {
    // What the template refuses is the conversation; only a limit is something else.
    const std::string message = absl::StrCat("are refused by the chat template: ", text.status().message());
    return InvalidField("messages", message);
  }
  return EncodeText(model, *text, /*parse_special=*/true);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ServedModel>> FinishServedModel(ServedModel model) {
  const int32_t vocab_size = model.tokenizer->VocabSize();
  if (vocab_size > model.info.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("model ", model.info.name, ": a tokenizer of ", vocab_size,
                                                   " tokens, and a vocabulary of ", model.info.vocab_size));
  }
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (model.tokenizer->EndsGeneration(id)) model.stop_ids.push_back(id);
  }
  model.dry_breakers = std::make_unique<DryBreakerCache>(model.tokenizer.get());
  return std::make_shared<const ServedModel>(std::move(model));
}

absl::StatusOr<std::vector<int32_t>> EncodeText(const ServedModel& model, std::string_view text,
                                                bool parse_special) {
  MOEPOOL_ASSIGN_OR_RETURN(std::vector<int32_t> ids, model.tokenizer->Encode(text, parse_special));
  const TokenizerSpec& spec = model.info.tokenizer;
  if (spec.add_bos && spec.bos_id >= 0 && (ids.empty() || ids.front() != spec.bos_id)) {
    ids.insert(ids.begin(), spec.bos_id);
  }
  return ids;
}

absl::StatusOr<std::string> DecodeIds(const ServedModel& model, std::span<const int32_t> ids, bool special) {
  Detokenizer detokenizer(model.tokenizer.get(), special);
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= model.info.vocab_size) {
      return InvalidField(absl::StrCat("ids[", i, "]"),
                          absl::StrCat("is ", ids[i], ", not in [0, ", model.info.vocab_size, ")"));
    }
    text += detokenizer.Push(ids[i]);
  }
  text += detokenizer.Finish();
  return text;
}

bool UsesTemplate(const ServedModel& model, const InferRequest& request) {
  if (std::holds_alternative<std::vector<ChatMessage>>(request.input)) return true;
  return std::holds_alternative<std::string>(request.input) && !request.raw && model.chat_template != nullptr;
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const ServedModel& model, const InferRequest& request,
                                                  absl::Time now) {
  std::vector<int32_t> ids;
  std::string field = "prompt";
  if (const auto* given = std::get_if<std::vector<int32_t>>(&request.input)) {
    field = "token_ids";
    for (size_t i = 0; i < given->size(); ++i) {
      if ((*given)[i] < 0 || (*given)[i] >= model.info.vocab_size) {
        return InvalidField(absl::StrCat("token_ids[", i, "]"),
                            absl::StrCat("is ", (*given)[i], ", not in [0, ", model.info.vocab_size, ")"));
      }
    }
    ids = *given;
  } else if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&request.input)) {
    field = "messages";
    MOEPOOL_ASSIGN_OR_RETURN(ids, EncodeMessages(model, *messages, now));
  } else {
    const std::string& prompt = std::get<std::string>(request.input);
    if (UsesTemplate(model, request)) {
      MOEPOOL_ASSIGN_OR_RETURN(
          ids, EncodeMessages(model, {{"user", prompt, nlohmann::ordered_json::object()}}, now));
    } else {
      MOEPOOL_ASSIGN_OR_RETURN(ids, EncodeText(model, prompt, /*parse_special=*/true));
    }
  }
  if (ids.empty()) return InvalidField(field, "has no tokens");
  const int32_t limit = model.info.context_tokens - 1;  // one place for the first token generated
  if (ids.size() > static_cast<size_t>(limit)) {
    return InvalidField(
        field, absl::StrCat("has ", ids.size(), " tokens, more than the ", limit, " that the context of ",
                            model.info.context_tokens, " leaves room for"));
  }
  return ids;
}

}  // namespace moepool
