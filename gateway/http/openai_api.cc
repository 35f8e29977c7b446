// What OpenAI's clients call: the models, chat and completions.
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "gateway/http/call_group.h"
#include "gateway/http/http_api.h"
#include "gateway/http/infer_answer.h"
#include "gateway/http/openai_error.h"
#include "gateway/openai/chat_answer.h"
#include "gateway/openai/chat_request.h"
#include "gateway/openai/completions_answer.h"
#include "gateway/openai/completions_request.h"

namespace moepool {
namespace {

using nlohmann::json;

// %41 and the like; what is no such code stays.
std::string PercentDecoded(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
      decoded += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

}  // namespace

json HttpApi::Describe(const ModelInfo& info, std::string_view name) const {
  return {{"id", name},
          {"object", "model"},
          {"created", started_unix_s_},
          {"owned_by", "moepool"},
          {"family", info.family},
          {"context_tokens", info.context_tokens},
          {"vocab_size", info.vocab_size},
          {"layers", info.layers},
          {"experts", info.experts},
          {"experts_per_token", info.experts_per_token},
          {"dense", info.dense}};
}

void HttpApi::Models(HttpRequest, std::shared_ptr<HttpResponder> responder) {
  const auto model = inference_->Model();
  if (!model.ok()) return responder->Send(ErrorResponse(model.status()));
  json data = json::array({Describe((*model)->info, (*model)->info.name)});
  for (const std::string& alias : (*model)->aliases) data.push_back(Describe((*model)->info, alias));
  responder->Send(JsonResponse({{"object", "list"}, {"data", std::move(data)}}));
}

absl::StatusOr<std::shared_ptr<const ServedModel>> HttpApi::ModelNamed(const std::string& name) const {
  MOEPOOL_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, inference_->Model());
  if (!name.empty()) MOEPOOL_RETURN_IF_ERROR(CheckServedName(*model, name));
  return model;
}

void HttpApi::OneModel(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  const std::string name = PercentDecoded(std::string_view(request.path).substr(sizeof("/v1/models/") - 1));
  const auto model = ModelNamed(name);
  responder->Send(model.ok() ? JsonResponse(Describe((*model)->info, name)) : ErrorResponse(model.status()));
}

void HttpApi::ChatCompletions(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  Prepare(std::move(request), std::move(responder), &HttpApi::StartChat);
}

absl::Status HttpApi::StartChat(const HttpRequest& request, const std::shared_ptr<HttpResponder>& responder) {
  MOEPOOL_ASSIGN_OR_RETURN(ChatRequest parsed, ParseChatRequest(request.body));
  MOEPOOL_ASSIGN_OR_RETURN(const auto model, ModelNamed(parsed.model));
  InferRequest& infer = parsed.infer;
  Identify(request, &infer);
  const auto calls = std::make_shared<CallGroup>();
  ChatAnswerOptions options;
  options.identity =
      MakeIdentity("chatcmpl", infer.stream ? "chat.completion.chunk" : "chat.completion", model->info.name);
  options.n = infer.n;
  options.logprobs = infer.sampling.logprobs;
  options.include_usage = parsed.include_usage;
  const std::shared_ptr<InferAnswer> answer = infer.stream
                                                  ? MakeChatStreamAnswer(OpenStream(responder), options)
                                                  : MakeChatJsonAnswer(responder, calls, options);
  calls->Add(
      inference_->Start(std::move(infer), [answer](InferEvent event) { answer->OnEvent(std::move(event)); }));
  responder->OnDisconnect([calls] { calls->Cancel(); });
  return absl::OkStatus();
}

void HttpApi::Completions(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  Prepare(std::move(request), std::move(responder), &HttpApi::StartCompletions);
}

absl::Status HttpApi::StartCompletions(const HttpRequest& request,
                                       const std::shared_ptr<HttpResponder>& responder) {
  MOEPOOL_ASSIGN_OR_RETURN(CompletionsRequest parsed, ParseCompletionsRequest(request.body));
  MOEPOOL_ASSIGN_OR_RETURN(const auto model, ModelNamed(parsed.model));
  InferRequest& infer = parsed.infer;
  const int64_t answers = static_cast<int64_t>(parsed.prompts.size()) * infer.n;
  if (const int most = inference_->admission().max_places(); answers > most) {
    return InvalidField(
        "prompt", absl::StrCat("makes ", answers, " answers, and this gateway answers ", most, " at once"));
  }
  Identify(request, &infer);
  const auto calls = std::make_shared<CallGroup>();
  CompletionsAnswerOptions options;
  options.identity = MakeIdentity("cmpl", "text_completion", model->info.name);
  options.prompts = static_cast<int32_t>(parsed.prompts.size());
  options.n = infer.n;
  options.logprobs = infer.sampling.logprobs;
  options.include_usage = parsed.include_usage;
  const std::shared_ptr<CompletionsAnswer> answer =
      infer.stream ? MakeCompletionsStreamAnswer(OpenStream(responder), calls, options)
                   : MakeCompletionsJsonAnswer(responder, calls, options);
  for (int32_t i = 0; i < options.prompts; ++i) {
    InferRequest one = infer;
    std::visit([&one](auto& prompt) { one.input = std::move(prompt); },
               parsed.prompts[static_cast<size_t>(i)]);
    calls->Add(inference_->Start(std::move(one),
                                 [answer, i](InferEvent event) { answer->OnEvent(i, std::move(event)); }));
  }
  responder->OnDisconnect([calls] { calls->Cancel(); });
  return absl::OkStatus();
}

}  // namespace moepool
