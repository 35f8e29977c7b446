// A small HTTP/1.1 server for an API: bounded in every direction, streams answers, and tells a handler when
// its client is gone. Knows nothing of what is served.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/config.h"
#include "gateway/unread_budget.h"

namespace moepool {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string path;   // without the query
  std::string query;  // after '?'
  std::string content_type;
  std::string body;
  std::string request_id;  // the client's X-Request-Id where that is sound, else made; in every answer
  HttpHeaders headers;     // as received
  std::string key_name;    // of the API key that it came with; empty: no key is asked for
  // The first of this name, whatever its case; empty where there is none.
  std::string Header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers;
};

// The answer to one request: Send, or StartStream, Write… and EndStream. Thread-safe; nothing blocks. A
// connection whose responder goes away with the answer unfinished is closed. Calls after the end, or after
// the client left, do nothing.
class HttpResponder {
 public:
  virtual ~HttpResponder() = default;
  virtual void Send(HttpResponse response) = 0;
  // The head goes out with the first data, or with the end.
  virtual void StartStream(std::string content_type) = 0;
  virtual void Write(std::string data) = 0;
  virtual void EndStream() = 0;
  // `callback` runs once if the client leaves before the answer's end, at once if it has left already.
  virtual void OnDisconnect(std::function<void()> callback) = 0;
};

// Runs on an I/O thread: hands work on and returns.
using HttpHandler = std::function<void(HttpRequest request, std::shared_ptr<HttpResponder> responder)>;
// Looks at a request of which the header has come. A response ends it, and its body is not read; nothing lets
// it go on, and what the gate wrote into it is the handler's. Runs on an I/O thread.
using HttpGateFunction = std::function<std::optional<HttpResponse>(HttpRequest* request)>;
// Headers that every answer to the request has, whoever made it.
using HttpHeadersFunction = std::function<HttpHeaders(const HttpRequest& request)>;
// Told of every answer when it begins. Of a request whose header could not be read, the path is empty.
using HttpAnswerObserver = std::function<void(const HttpRequest& request, int status)>;
// Body of a response that the server makes by itself: 400, 408, 413, 431, 503.
using HttpErrorBody = std::function<std::string(int status, const std::string& message)>;

struct HttpServerOptions {
  HostPort address;
  HttpGateFunction gate;            // none: all may go on
  HttpHeadersFunction add_headers;  // none: nothing is added
  HttpAnswerObserver on_answer;     // none: nobody is told
  int threads = 2;
  int max_connections = 512;  // more push out those that are between requests, or are told 503
  uint32_t max_header_bytes = 16 << 10;
  uint64_t max_body_bytes = 8 << 20;
  size_t max_pipelined_bytes = 64 << 10;  // read ahead of an answer
  // Of what clients have not read: a stream is given up that has more than a call's share waiting, and any
  // answer where all together have too much. Outlives the server. None: one of its own.
  UnreadBudget* unread = nullptr;
  absl::Duration header_timeout = absl::Seconds(10);  // first byte of a request to the end of its header
  absl::Duration body_timeout = absl::Seconds(60);
  absl::Duration idle_timeout = absl::Seconds(75);   // between requests
  absl::Duration write_timeout = absl::Seconds(30);  // without any progress of the client's
};

// Thread-safe.
class HttpServer {
 public:
  // Unavailable names the address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                           HttpHandler handler, HttpErrorBody error_body);
  virtual ~HttpServer() = default;
  virtual const HostPort& address() const = 0;  // the real port
  virtual int connections() = 0;
  // Accepts nobody more, closes connections that are between requests, and the others after their answer; a
  // request of which a part is missing has two seconds to arrive. Returns when all are closed, or at
  // `deadline` after closing them.
  virtual void Drain(absl::Time deadline) = 0;
};

}  // namespace moepool
