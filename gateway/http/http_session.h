// One connection. A read is always outstanding while an answer is made, which is how a client that leaves is
// seen.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/strand.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "gateway/http/http_parse.h"
#include "gateway/http/http_server.h"

namespace moepool {

// What all sessions of a server share; outlives them.
struct HttpSessionContext {
  HttpServerOptions options;
  HttpHandler handler;
  HttpErrorBody error_body;
  std::function<void(class HttpSession*)> on_closed;  // more than once, perhaps
  std::atomic<bool> draining{false};                  // no request after the one under way
  mutable std::atomic<uint64_t> idled{0};             // how often any session became idle
};

// Everything but the constructor, idle_since and ForgetIdle runs on the socket's strand.
class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(boost::asio::ip::tcp::socket socket, const HttpSessionContext* context);
  ~HttpSession();

  boost::asio::any_io_executor executor() { return socket_.get_executor(); }
  void Start();
  // The context says that the server drains: closes where no request is under way, and gives half a request
  // two seconds.
  void OnDrain();
  void Close();
  // The number, among all sessions' of the context, of when it became idle; 0: it is not.
  uint64_t idle_since() const { return idle_since_; }
  void ForgetIdle() { idle_since_ = 0; }
  // Closes where no byte of a next request has come; `then` runs when that is decided.
  void CloseIfIdle(std::function<void()> then);

  // For the responder of request `serial`; others are ignored.
  void Send(uint64_t serial, HttpResponse response);
  void StartStream(uint64_t serial, const std::string& content_type);
  void Write(uint64_t serial, const std::string& data);
  void EndStream(uint64_t serial);
  void OnDisconnect(uint64_t serial, std::function<void()> callback);
  void Abandon(uint64_t serial);  // the responder is gone

 private:
  using ErrorCode = boost::system::error_code;
  static constexpr size_t kReadBytes = 16 << 10;
  static constexpr absl::Duration kLingerTimeout = absl::Seconds(2);
  enum class State { kIdle, kReading, kAnswering, kLingering, kClosed };

  void ReadAhead();
  void OnReadAhead(ErrorCode error, size_t bytes);
  void TakeReadAhead(ErrorCode error, size_t bytes);
  void OnClientEnd();
  void BeginRequest();
  void OnHeader(ErrorCode error);
  void ReadBody();
  void OnBody(ErrorCode error);
  void Dispatch();
  void FailRead(ErrorCode error);
  void SendError(int status, const std::string& message);
  void Answer(HttpResponse response);
  // Sends data after what waits already.
  void Queue(std::string_view data);
  // The same once more comes. Closes the session where too much waits for its client already: false.
  bool Gather(std::string_view data);
  void FlushQueue();
  void WriteSome();
  void OnWritten(ErrorCode error);
  void FinishAnswer();
  void Linger();
  void BecomeIdle();
  void ArmRead(absl::Duration timeout);
  bool IsCurrent(uint64_t serial) const {
    return state_ == State::kAnswering && serial == serial_ && !answered_;
  }
  std::string Head(int status, const std::string& content_type, std::optional<size_t> length) const;

  boost::asio::ip::tcp::socket socket_;
  const HttpSessionContext& context_;
  boost::asio::steady_timer read_timer_;
  boost::asio::steady_timer write_timer_;
  boost::beast::flat_buffer buffer_;
  std::optional<HttpParser> parser_;
  State state_ = State::kIdle;
  std::atomic<uint64_t> idle_since_;
  std::function<void()> on_decided_;  // whether it closes for another
  bool reading_ahead_ = false;
  bool resume_ = false;        // the read ahead was cancelled to take up what it had read
  bool timed_out_ = false;     // of reading
  bool client_ended_ = false;  // it sends nothing more
  bool keep_alive_ = false;
  bool head_only_ = false;
  bool http_1_0_ = false;
  bool chunked_ = false;
  bool answered_ = false;       // nothing more will be queued for this request
  uint64_t serial_ = 0;         // of the request under way
  UnreadBudget::Share unread_;  // of the next two
  std::string queued_;
  std::string writing_;
  size_t written_bytes_ = 0;  // of writing_
  std::string request_id_;    // of the request under way, once its header has come
  HttpRequest request_;       // as far as it has come
  HttpHeaders added_;         // to its answer
  std::function<void()> on_disconnect_;
};

}  // namespace moepool
