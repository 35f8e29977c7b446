// The gateway's routes: /infer and its helpers, what OpenAI's clients call, the page, health and metrics.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/metrics/metrics.h"
#include "gateway/http/http_server.h"
#include "gateway/http/pool_text.h"
#include "gateway/http/sse_stream.h"
#include "gateway/inference.h"

namespace moepool {

struct HttpApiOptions {
  absl::Duration keepalive_interval = absl::Seconds(10);  // of a stream without text
};

// Takes over what the request's header says of who asks: id and trace context.
void Identify(const HttpRequest& http, InferRequest* request);

// Thread-safe. All that it is given outlives it.
class HttpApi {
 public:
  HttpApi(Inference* inference, ModelWatcher* watcher, const Metrics* metrics, const HttpApiOptions& options);
  void Handle(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  // All that are served.
  static std::vector<std::string> Paths();

 private:
  using Action = void (HttpApi::*)(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  struct Route {
    const char* path;
    const char* method;
    Action action;
  };
  static const std::vector<Route>& Routes();
  // The table and a route for each file of the page.
  static const std::vector<Route>* WithPage(std::vector<Route>* table);

  // On the pool, since parsing megabytes takes milliseconds, which the I/O threads do not have. Where `start`
  // fails, its status is the answer.
  using Start = absl::Status (HttpApi::*)(const HttpRequest& request,
                                          const std::shared_ptr<HttpResponder>& responder);
  void Prepare(HttpRequest request, std::shared_ptr<HttpResponder> responder, Start start);
  void Infer(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  absl::Status StartInfer(const HttpRequest& request, const std::shared_ptr<HttpResponder>& responder);
  void Tokenize(HttpRequest request, std::shared_ptr<HttpResponder> responder);       // tokenizer_api.cc
  void Detokenize(HttpRequest request, std::shared_ptr<HttpResponder> responder);     // tokenizer_api.cc
  void TokenizerInfo(HttpRequest request, std::shared_ptr<HttpResponder> responder);  // tokenizer_api.cc
  // openai_api.cc
  void Models(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  void OneModel(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  void ChatCompletions(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  void Completions(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  absl::Status StartChat(const HttpRequest& request, const std::shared_ptr<HttpResponder>& responder);
  absl::Status StartCompletions(const HttpRequest& request, const std::shared_ptr<HttpResponder>& responder);
  // The model, where `name` is one of its names, or nothing.
  absl::StatusOr<std::shared_ptr<const ServedModel>> ModelNamed(const std::string& name) const;
  void OpenApi(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  void Health(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  void Ready(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  void ShowMetrics(HttpRequest request, std::shared_ptr<HttpResponder> responder);
  void Page(HttpRequest request, std::shared_ptr<HttpResponder> responder);  // pool_page.cc
  void Pool(HttpRequest request, std::shared_ptr<HttpResponder> responder);  // pool_page.cc

  std::shared_ptr<SseStream> OpenStream(const std::shared_ptr<HttpResponder>& responder);
  // Answers on the pool, from the model alone.
  void WithModel(HttpRequest request, std::shared_ptr<HttpResponder> responder,
                 absl::StatusOr<nlohmann::json> (*answer)(const std::string& body, const ServedModel& model));
  nlohmann::json Describe(const ModelInfo& info, std::string_view name) const;

  Inference* const inference_;
  ModelWatcher* const watcher_;
  const Metrics* const metrics_;
  const HttpApiOptions options_;
  const int64_t started_unix_s_;
  PoolText pool_text_;
};

}  // namespace moepool
