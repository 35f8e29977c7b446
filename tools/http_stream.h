// A client's side of HTTP whose answers are read as they come, for measuring servers: ours and others.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/config.h"
#include "common/base/mutex.h"

namespace moepool {

struct HttpAnswer {
  int status = 0;
  std::string body;  // what was not handed to on_body
};

// One server's. A connection whose answer has come whole is kept for a later request, as the clients that
// people use keep theirs. Thread-safe.
class HttpClient {
 public:
  explicit HttpClient(HostPort address);
  ~HttpClient();

  // Sends `body` as JSON with POST, or asks with GET where it is empty; blocks. Where the answer is 200,
  // `on_body`, if any, gets its bytes as they arrive, with any chunking undone. Unavailable where there is no
  // connection or it ends too early, DeadlineExceeded, DataLoss where the answer is not HTTP.
  absl::StatusOr<HttpAnswer> Exchange(const std::string& path, const std::string& body, absl::Time deadline,
                                      const std::function<void(std::string_view)>& on_body = nullptr);

 private:
  class Connection;
  std::unique_ptr<Connection> TakeKept();

  const HostPort address_;
  Mutex mutex_;
  std::vector<std::unique_ptr<Connection>> kept_ GUARDED_BY(mutex_);
};

// Lines "data: …" of server-sent events, from bytes cut anywhere; other lines are comments and fields that
// nobody here uses.
class EventLines {
 public:
  explicit EventLines(std::function<void(std::string_view)> on_data) : on_data_(std::move(on_data)) {}
  void Feed(std::string_view bytes);

 private:
  const std::function<void(std::string_view)> on_data_;
  std::string line_;
};

}  // namespace moepool
