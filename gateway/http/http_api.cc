#include "gateway/http/http_api.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "boost/asio/post.hpp"
#include "gateway/http/infer_answer.h"
#include "gateway/http/openai_error.h"
#include "gateway/request_id.h"

namespace moepool {
namespace {

using nlohmann::json;

HttpResponse JsonResponse(const json& body) {
  HttpResponse response;
  response.body = body.dump(-1, ' ', false, json::error_handler_t::replace);
  return response;
}

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

void Identify(const HttpRequest& http, InferRequest* request) {
  request->request_id = http.request_id;
  request->key_name = http.key_name;
  if (const std::string trace = http.Header("traceparent"); IsTraceparent(trace))
    request->traceparent = trace;
}

}  // namespace

HttpApi::HttpApi(Inference* inference, ModelWatcher* watcher, const Metrics* metrics,
                 const HttpApiOptions& options)
    : inference_(inference),
      watcher_(watcher),
      metrics_(metrics),
      options_(options),
      started_unix_s_(absl::ToUnixSeconds(absl::Now())) {}

const std::vector<HttpApi::Route>& HttpApi::Routes() {
  static const auto* const routes = new std::vector<Route>{
      {"/infer", "POST", &HttpApi::Infer},     {"/tokenize", "POST", &HttpApi::Tokenize},
      {"/v1/models", "GET", &HttpApi::Models}, {"/health", "GET", &HttpApi::Health},
      {"/ready", "GET", &HttpApi::Ready},      {"/metrics", "GET", &HttpApi::ShowMetrics},
  };
  return *routes;
}

std::vector<std::string> HttpApi::Paths() {
  std::vector<std::string> paths;
  for (const Route& route : Routes()) paths.push_back(route.path);
  return paths;
}

void HttpApi::Handle(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  for (const Route& route : Routes()) {
    if (request.path != route.path) continue;
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
  responder->Send(PlainError(404, absl::StrCat("no such path: ", request.path.substr(0, 200))));
}

void HttpApi::Infer(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  // Parsing megabytes takes milliseconds, which the I/O threads do not have.
  boost::asio::post(
      inference_->pool(), [this, request = std::move(request), responder = std::move(responder)] {
        absl::StatusOr<InferRequest> parsed = ParseInferRequest(request.body);
        if (!parsed.ok()) return responder->Send(ErrorResponse(parsed.status()));
        Identify(request, &*parsed);
        const InferAnswerOptions options{.n = parsed->n, .logprobs = parsed->sampling.logprobs};
        const std::shared_ptr<InferAnswer> answer =
            parsed->stream
                ? MakeStreamAnswer(responder, options, &inference_->pool(), options_.keepalive_interval)
                : MakeJsonAnswer(responder, options);
        const std::shared_ptr<InferCall> call = inference_->Start(
            *std::move(parsed), [answer](InferEvent event) { answer->OnEvent(std::move(event)); });
        responder->OnDisconnect([call] { call->Cancel(); });
      });
}

void HttpApi::Tokenize(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  absl::StatusOr<std::unique_ptr<Admission::Ticket>> admitted = inference_->admission().Admit();
  if (!admitted.ok()) return responder->Send(ErrorResponse(admitted.status()));
  const std::shared_ptr<Admission::Ticket> ticket = *std::move(admitted);
  boost::asio::post(inference_->pool(),
                    [this, ticket, request = std::move(request), responder = std::move(responder)] {
                      const absl::StatusOr<TokenizeTextRequest> parsed = ParseTokenizeRequest(request.body);
                      if (!parsed.ok()) return responder->Send(ErrorResponse(parsed.status()));
                      const auto model = inference_->Model();
                      if (!model.ok()) return responder->Send(ErrorResponse(model.status()));
                      const auto ids = EncodeText(**model, parsed->text, parsed->parse_special);
                      if (!ids.ok()) return responder->Send(ErrorResponse(ids.status()));
                      json pieces = json::array();
                      for (const int32_t id : *ids)
                        pieces.push_back((*model)->tokenizer->Bytes(id, /*special=*/true));
                      responder->Send(JsonResponse({{"ids", *ids}, {"pieces", std::move(pieces)}}));
                    });
}

void HttpApi::Models(HttpRequest, std::shared_ptr<HttpResponder> responder) {
  const auto model = inference_->Model();
  if (!model.ok()) return responder->Send(ErrorResponse(model.status()));
  const ModelInfo& info = (*model)->info;
  responder->Send(JsonResponse({{"object", "list"},
                                {"data",
                                 {{{"id", info.name},
                                   {"object", "model"},
                                   {"created", started_unix_s_},
                                   {"owned_by", "moepool"},
                                   {"family", info.family},
                                   {"context_tokens", info.context_tokens},
                                   {"vocab_size", info.vocab_size},
                                   {"layers", info.layers},
                                   {"experts", info.experts},
                                   {"experts_per_token", info.experts_per_token},
                                   {"dense", info.dense}}}}}));
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
