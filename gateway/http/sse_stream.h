// Server-sent events to one client: the header goes out with the first event or the first keep-alive comment,
// so that a refusal before is an HTTP status of its own.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/thread_pool.hpp"
#include "common/base/mutex.h"
#include "gateway/http/http_server.h"

namespace moepool {

// Thread-safe. After Done or Fail nothing more is sent.
class SseStream : public std::enable_shared_from_this<SseStream> {
 public:
  static std::shared_ptr<SseStream> Start(std::shared_ptr<HttpResponder> responder,
                                          boost::asio::thread_pool* pool, absl::Duration keepalive_interval);
  // One event; `json` has no line break.
  void Send(const std::string& json);
  // The end of a stream that is whole.
  void Done();
  // The last event is the error, and no [DONE] follows it, by which clients tell it from a whole answer.
  void Fail(const absl::Status& status);

 private:
  SseStream(std::shared_ptr<HttpResponder> responder, boost::asio::thread_pool* pool,
            absl::Duration keepalive_interval);
  void WaitKeepalive() REQUIRES(mutex_);
  void Write(std::string data) REQUIRES(mutex_);

  const std::shared_ptr<HttpResponder> responder_;
  const std::chrono::nanoseconds interval_;
  Mutex mutex_;
  boost::asio::steady_timer timer_ GUARDED_BY(mutex_);
  bool started_ GUARDED_BY(mutex_) = false;
  bool wrote_ GUARDED_BY(mutex_) = false;  // since the last look
  bool over_ GUARDED_BY(mutex_) = false;
};

}  // namespace moepool
