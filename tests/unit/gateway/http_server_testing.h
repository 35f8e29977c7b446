// An HTTP server on loopback whose answers a test gives.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "gateway/http/http_server.h"
#include "gateway/http/openai_error.h"

namespace moepool {

inline HttpServerOptions Loopback() {
  HttpServerOptions options;
  options.address = {"127.0.0.1", 0};
  return options;
}

inline void Echo(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  HttpResponse response;
  response.body = request.method + " " + request.path + "?" + request.query + " " + request.body;
  responder->Send(std::move(response));
}

inline HttpResponse Text(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

inline std::unique_ptr<HttpServer> StartServer(const HttpServerOptions& options, HttpHandler handler) {
  auto server = HttpServer::Start(options, std::move(handler), OpenAiErrorBody);
  MOEPOOL_CHECK(server.ok());
  return *std::move(server);
}

// The answers of requests, kept for the test to give.
class Held {
 public:
  HttpHandler Handler() {
    return [this](HttpRequest, std::shared_ptr<HttpResponder> responder) {
      MutexLock lock(&mutex_);
      responder_ = std::move(responder);
      changed_.NotifyAll();
    };
  }
  std::shared_ptr<HttpResponder> Take() {
    MutexLock lock(&mutex_);
    while (responder_ == nullptr) changed_.Wait(&mutex_);
    return std::move(responder_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<HttpResponder> responder_ GUARDED_BY(mutex_);
};

}  // namespace moepool
