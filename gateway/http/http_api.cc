#include "gateway/http/http_api.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "boost/asio/post.hpp"
#include "common/base/status_macros.h"
#include "common/base/traceparent.h"
#include "gateway/http/call_group.h"
#include "gateway/http/infer_answer.h"
#include "gateway/http/openai_error.h"
#include "gateway/http/openapi.h"
#include "gateway/http/path_pattern.h"

namespace moepool {
namespace {

using nlohmann::json;

HttpResponse PlainError(int status, const std::string& message) {
  HttpResponse response;
  response.status = status;
  response.body = OpenAiErrorBody(status, message);
  return response;
}

// A page in a browser can send text/plain to a server on its user's machine without asking; application/json
// it cannot.
bool IsJson(const std::string& content_type) {
  const std::string type = content_type.substr(0, content_type.find(';'));
  return absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(type), "application/json");
}

// What to use in place of a path of OpenAI's that is not served, or null.
const char* InsteadOf(std::string_view path) {
  static constexpr struct {
    std::string_view path;
    const char* instead;
  } kNotServed[] = {
      {"/v1/responses", "use /v1/chat/completions"},
      {"/v1/embeddings", "the model generates text; use /v1/chat/completions or /v1/completions"},
      {"/v1/moderations", "the model generates text; use /v1/chat/completions or /v1/completions"},
      {"/v1/edits", "use /v1/chat/completions"},
      {"/v1/images", "only text is served; use /v1/chat/completions"},
      {"/v1/audio", "only text is served; use /v1/chat/completions"},
      {"/v1/assistants", "nothing is kept between requests; use /v1/chat/completions"},
      {"/v1/threads", "nothing is kept between requests; use /v1/chat/completions"},
      {"/v1/files", "nothing is kept between requests; use /v1/chat/completions"},
      {"/v1/batches", "nothing is kept between requests; use /v1/chat/completions"},
      {"/v1/fine_tuning", "the model is served as it is; use /v1/chat/completions"},
  };
  for (const auto& entry : kNotServed) {
    if (path.substr(0, entry.path.size()) != entry.path) continue;
    if (path.size() == entry.path.size() || path[entry.path.size()] == '/') return entry.instead;
  }
  return nullptr;
}

}  // namespace

void Identify(const HttpRequest& http, InferRequest* request) {
  request->request_id = http.request_id;
  request->key_name = http.key_name;
  if (const std::string trace = http.Header("traceparent"); IsTraceparent(trace))
    request->traceparent = trace;
}

HttpApi::HttpApi(Inference* inference, ModelWatcher* watcher, const Metrics* metrics,
                 const HttpApiOptions& options)
    : inference_(inference),
      watcher_(watcher),
      metrics_(metrics),
      options_(options),
      started_unix_s_(absl::ToUnixSeconds(absl::Now())),
      pool_text_(watcher) {}

const std::vector<HttpApi::Route>& HttpApi::Routes() {
  static const auto* const routes = WithPage(new std::vector<Route>{
      {"/infer", "POST", &HttpApi::Infer},
      {"/tokenize", "POST", &HttpApi::Tokenize},
      {"/v1/models", "GET", &HttpApi::Models},
      {"/health", "GET", &HttpApi::Health},
      {"/ready", "GET", &HttpApi::Ready},
      {"/metrics", "GET", &HttpApi::ShowMetrics},
      {"/detokenize", "POST", &HttpApi::Detokenize},
      {"/openapi.json", "GET", &HttpApi::OpenApi},
      {"/tokenizer_info", "GET", &HttpApi::TokenizerInfo},
      {"/v1/models/{model}", "GET", &HttpApi::OneModel},
      {"/v1/chat/completions", "POST", &HttpApi::ChatCompletions},
      {"/v1/completions", "POST", &HttpApi::Completions},
      {"/pool", "GET", &HttpApi::Pool},
  });
  return *routes;
}

std::vector<std::string> HttpApi::Paths() {
  std::vector<std::string> paths;
  for (const Route& route : Routes()) paths.push_back(route.path);
  return paths;
}

void HttpApi::Handle(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  for (const Route& route : Routes()) {
    if (!MatchesPath(route.path, request.path)) continue;
    const bool get = std::string_view(route.method) == "GET";
    const std::string allow = get ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
    if (request.method == "OPTIONS") {
      HttpResponse response;
      response.status = 204;
      response.headers.emplace_back("Allow", allow);
      return responder->Send(std::move(response));
    }
    if (request.method != route.method && !(get && request.method == "HEAD")) {
      HttpResponse response =
          PlainError(405, absl::StrCat(route.path, " takes ", route.method, ", not ", request.method));
      response.headers.emplace_back("Allow", allow);
      return responder->Send(std::move(response));
    }
    if (!get && !IsJson(request.content_type)) {
      return responder->Send(PlainError(
          415,
          absl::StrCat("Content-Type is '", request.content_type.substr(0, 100), "', not application/json")));
    }
    return (this->*route.action)(std::move(request), std::move(responder));
  }
  if (const char* instead = InsteadOf(request.path); instead != nullptr) {
    return responder->Send(
        PlainError(404, absl::StrCat(request.path.substr(0, 200), " is not served: ", instead)));
  }
  responder->Send(PlainError(404, absl::StrCat("no such path: ", request.path.substr(0, 200))));
}

std::shared_ptr<SseStream> HttpApi::OpenStream(const std::shared_ptr<HttpResponder>& responder) {
  return SseStream::Start(responder, &inference_->stream_pool(), options_.keepalive_interval);
}

void HttpApi::Prepare(HttpRequest request, std::shared_ptr<HttpResponder> responder, Start start) {
  boost::asio::post(inference_->preparation_pool(),
                    [this, start, request = std::move(request), responder = std::move(responder)] {
                      if (const absl::Status status = (this->*start)(request, responder); !status.ok()) {
                        responder->Send(ErrorResponse(status));
                      }
                    });
}

void HttpApi::Infer(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  Prepare(std::move(request), std::move(responder), &HttpApi::StartInfer);
}

absl::Status HttpApi::StartInfer(const HttpRequest& request,
                                 const std::shared_ptr<HttpResponder>& responder) {
  MOEPOOL_ASSIGN_OR_RETURN(InferRequest infer, ParseInferRequest(request.body));
  Identify(request, &infer);
  const auto calls = std::make_shared<CallGroup>();
  const InferAnswerOptions options{.n = infer.n, .logprobs = infer.sampling.logprobs};
  const std::shared_ptr<InferAnswer> answer = infer.stream ? MakeStreamAnswer(OpenStream(responder), options)
                                                           : MakeJsonAnswer(responder, calls, options);
  calls->Add(
      inference_->Start(std::move(infer), [answer](InferEvent event) { answer->OnEvent(std::move(event)); }));
  responder->OnDisconnect([calls] { calls->Cancel(); });
  return absl::OkStatus();
}

void HttpApi::WithModel(HttpRequest request, std::shared_ptr<HttpResponder> responder,
                        absl::StatusOr<json> (*answer)(const std::string& body, const ServedModel& model)) {
  absl::StatusOr<std::unique_ptr<Admission::Ticket>> admitted = inference_->admission().Admit();
  if (!admitted.ok()) return responder->Send(ErrorResponse(admitted.status()));
  const std::shared_ptr<Admission::Ticket> ticket = *std::move(admitted);
  boost::asio::post(inference_->preparation_pool(),
                    [this, ticket, answer, request = std::move(request), responder = std::move(responder)] {
                      const auto model = inference_->Model();
                      if (!model.ok()) return responder->Send(ErrorResponse(model.status()));
                      const absl::StatusOr<json> body = answer(request.body, **model);
                      responder->Send(body.ok() ? JsonResponse(*body) : ErrorResponse(body.status()));
                    });
}

void HttpApi::OpenApi(HttpRequest, std::shared_ptr<HttpResponder> responder) {
  HttpResponse response;
  response.body = OpenApiText();
  responder->Send(std::move(response));
}

void HttpApi::Health(HttpRequest, std::shared_ptr<HttpResponder> responder) {
  responder->Send(JsonResponse({{"status", "ok"}}));
}

void HttpApi::Ready(HttpRequest, std::shared_ptr<HttpResponder> responder) {
  std::string reason = watcher_->NotReadyReason();
  if (inference_->admission().draining()) reason = "the gateway is shutting down";
  if (!reason.empty()) return responder->Send(ErrorResponse(absl::UnavailableError(reason)));
  responder->Send(JsonResponse({{"status", "ready"}}));
}

void HttpApi::ShowMetrics(HttpRequest, std::shared_ptr<HttpResponder> responder) {
  HttpResponse response;
  response.content_type = kMetricsContentType;
  response.body = metrics_->Expose();
  responder->Send(std::move(response));
}

}  // namespace moepool
