// Who gets in over HTTP: the one place that looks at hosts, origins and API keys, when a request's header has
// come and before its body is read. What lies behind need not think of it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gateway/auth.h"
#include "gateway/http/http_server.h"

namespace moepool {

struct HttpGateOptions {
  ApiKeys* keys = nullptr;    // outlives the gate; none: no key is asked for
  bool open_metrics = false;  // /metrics needs no key
  // Of pages that may call from browsers, "https://chat.example.org"; "*": of all. Others' requests are
  // answered, and browsers keep the answers from them.
  std::vector<std::string> cors_origins = {};
  // Names in Host that lead here, besides localhost and IP addresses. Looked at where check_host is set: a
  // page of a name that its owner lets point at 127.0.0.1 could otherwise call with a browser of this
  // machine's.
  bool check_host = false;
  std::vector<std::string> allowed_hosts = {};
};

// InvalidArgument where it is neither "*" nor scheme://host[:port].
absl::Status ValidateOrigin(std::string_view origin);

// Thread-safe.
class HttpGate {
 public:
  explicit HttpGate(HttpGateOptions options) : options_(std::move(options)) {}

  // Nothing: the request may go on, and its key_name is set. Else the answer that ends it: a refusal, or what
  // a browser's preflight asks for.
  std::optional<HttpResponse> Check(HttpRequest* request) const;
  // Headers of every answer to such a request.
  HttpHeaders AnswerHeaders(const HttpRequest& request) const;

 private:
  bool AllowsOrigin(const std::string& origin) const;
  bool AllowsHost(const std::string& host) const;
  bool IsOpen(const HttpRequest& request) const;

  const HttpGateOptions options_;
};

}  // namespace moepool
