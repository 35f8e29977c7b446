// A client's side of one HTTP exchange whose answer is read as it comes, for measuring servers: ours and
// others. One connection a request; blocking, with a deadline.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/config.h"

namespace moepool {

struct HttpAnswer {
  int status = 0;
  std::string body;  // what was not handed to on_body
};

// Sends `body` as JSON with POST, or asks with GET where it is empty. Where the answer is 200, `on_body`, if
// any, gets its bytes as they arrive, with any chunking undone. Unavailable where there is no connection or
// it ends too early, DeadlineExceeded, DataLoss where the answer is not HTTP.
absl::StatusOr<HttpAnswer> HttpExchange(const HostPort& address, const std::string& path,
                                        const std::string& body, absl::Time deadline,
                                        const std::function<void(std::string_view)>& on_body = nullptr);

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
