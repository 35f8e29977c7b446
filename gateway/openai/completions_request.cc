#include "gateway/openai/completions_request.h"

#include <utility>

#include "common/base/status_macros.h"
#include "gateway/openai/openai_fields.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

constexpr int32_t kDefaultMaxTokens = 16;

struct CompletionsBody {
  InferRequest infer;
  OpenAiFields openai;
  std::vector<std::variant<std::string, std::vector<int32_t>>> prompts;
  std::optional<int32_t> logprobs;
  std::optional<int32_t> best_of;
  std::string suffix;
};

// Text, texts, ids, or lists of ids.
absl::Status ReadPrompt(const std::string& field, const ordered_json& value, CompletionsBody* out) {
  if (value.is_string()) {
    out->prompts.emplace_back(value.get<std::string>());
    return absl::OkStatus();
  }
  if (!value.is_array()) {
    return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not a string or a list"));
  }
  if (value.empty()) return InvalidField(field, "is an empty list");
  if (value[0].is_number()) {
    return ReadIds(field, value, &out->prompts.emplace_back().emplace<std::vector<int32_t>>());
  }
  if (value.size() > kMaxPrompts) {
    return InvalidField(field, absl::StrCat("has ", value.size(), " prompts, more than ", kMaxPrompts));
  }
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string at = absl::StrCat(field, "[", i, "]");
    auto& prompt = out->prompts.emplace_back();
    if (value[i].is_string()) {
      prompt = value[i].get<std::string>();
    } else {
      MOEPOOL_RETURN_IF_ERROR(ReadIds(at, value[i], &prompt.emplace<std::vector<int32_t>>()));
    }
  }
  return absl::OkStatus();
}

JsonFields<CompletionsBody> MakeFields() {
  using B = CompletionsBody;
  JsonFields<B> fields = {
      {"prompt", ReadPrompt},
      FieldAt<B>("logprobs", [](B& b) { return &b.logprobs; }),
      FieldAt<B>("best_of", [](B& b) { return &b.best_of; }),
      FieldAt<B>("suffix", [](B& b) { return &b.suffix; }),
      FieldAt<B>("echo", [](B& b) { return &b.infer.echo; }),
  };
  for (JsonField<B>& field : FieldsOfPart(OpenAiFieldTable(), &B::openai)) fields.push_back(std::move(field));
  for (JsonField<B>& field : FieldsOfPart(OpenAiGenerationFields(), &B::infer))
    fields.push_back(std::move(field));
  return fields;
}

const JsonFields<CompletionsBody>& Fields() {
  static const auto* const fields = new JsonFields<CompletionsBody>(MakeFields());
  return *fields;
}

}  // namespace

std::vector<std::string> CompletionsFieldNames() { return FieldNames(Fields()); }

absl::StatusOr<CompletionsRequest> ParseCompletionsRequest(std::string_view body) {
  MOEPOOL_ASSIGN_OR_RETURN(const ordered_json object, ParseJson(body));
  CompletionsBody b;
  b.infer.max_tokens = kDefaultMaxTokens;
  b.infer.sampling.temperature = kOpenAiTemperature;
  b.infer.raw = true;
  MOEPOOL_RETURN_IF_ERROR(ReadObject("", object, Fields(), UnknownFields::kIgnored, &b));
  if (b.prompts.empty()) return InvalidField("prompt", "is missing");
  if (!b.suffix.empty()) return InvalidField("suffix", "is given, and text is generated at the end alone");
  if (b.logprobs.has_value()) {
    if (*b.logprobs < 0 || *b.logprobs > kMaxTopLogprobs) {
      return InvalidField("logprobs",
                          absl::StrCat("is ", *b.logprobs, ", not in [0, ", kMaxTopLogprobs, "]"));
    }
    b.infer.sampling.logprobs = true;
    b.infer.sampling.top_logprobs = *b.logprobs;
    b.infer.prompt_logprobs = b.infer.echo;
  }
  b.infer.input = std::string();
  MOEPOOL_RETURN_IF_ERROR(ValidateInferRequest(b.infer));
  if (b.best_of.has_value() && *b.best_of != b.infer.n) {
    return InvalidField("best_of", absl::StrCat("is ", *b.best_of, ", and n is ", b.infer.n,
                                                ": every answer that is made is returned"));
  }
  return CompletionsRequest{std::move(b.infer), std::move(b.prompts), std::move(b.openai.model),
                            b.openai.include_usage};
}

}  // namespace moepool
