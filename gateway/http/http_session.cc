#include "gateway/http/http_session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "boost/asio/buffer.hpp"
#include "boost/asio/dispatch.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/http/read.hpp"
#include "gateway/http/io_threads.h"
#include "gateway/request_id.h"

namespace moepool {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

class Responder : public HttpResponder {
 public:
  Responder(std::shared_ptr<HttpSession> session, uint64_t serial)
      : session_(std::move(session)), serial_(serial) {}
  ~Responder() override {
    Post([](HttpSession& session, uint64_t serial) { session.Abandon(serial); });
  }
  void Send(HttpResponse response) override {
    Post([response = std::move(response)](HttpSession& session, uint64_t serial) mutable {
      session.Send(serial, std::move(response));
    });
  }
  void StartStream(std::string content_type) override {
    Post([content_type = std::move(content_type)](HttpSession& session, uint64_t serial) {
      session.StartStream(serial, content_type);
    });
  }
  void Write(std::string data) override {
    Post([data = std::move(data)](HttpSession& session, uint64_t serial) { session.Write(serial, data); });
  }
  void EndStream() override {
    Post([](HttpSession& session, uint64_t serial) { session.EndStream(serial); });
  }
  void OnDisconnect(std::function<void()> callback) override {
    Post([callback = std::move(callback)](HttpSession& session, uint64_t serial) mutable {
      session.OnDisconnect(serial, std::move(callback));
    });
  }

 private:
  // On the session's strand: later in a thread of the server's, which may be within the session already; in
  // any other at once, unless another is.
  template <typename F>
  void Post(F f) {
    auto task = [session = session_, serial = serial_, f = std::move(f)]() mutable { f(*session, serial); };
    if (is_io_thread) {
      asio::post(session_->executor(), std::move(task));
    } else {
      asio::dispatch(session_->executor(), std::move(task));
    }
  }

  const std::shared_ptr<HttpSession> session_;
  const uint64_t serial_;
};

}  // namespace

HttpSession::HttpSession(asio::ip::tcp::socket socket, const HttpSessionContext* context)
    : socket_(std::move(socket)),
      context_(*context),
      read_timer_(socket_.get_executor()),
      write_timer_(socket_.get_executor()),
      buffer_(context->options.max_header_bytes + context->options.max_pipelined_bytes + kReadBytes),
      idle_since_(++context->idled),
      unread_(context->options.unread) {}

HttpSession::~HttpSession() { context_.on_closed(this); }

void HttpSession::Start() {
  if (state_ == State::kClosed) return;
  ErrorCode ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.non_blocking(true, ignored);
  BecomeIdle();
}

void HttpSession::BecomeIdle() {
  idle_since_ = ++context_.idled;
  ArmRead(context_.options.idle_timeout);
  if (!reading_ahead_) ReadAhead();
}

void HttpSession::OnDrain() {
  if (state_ == State::kIdle) Close();
  if (state_ == State::kReading) ArmRead(kLingerTimeout);
}

void HttpSession::Close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  unread_.Remove(queued_.size());
  queued_ = {};
  ErrorCode ignored;
  socket_.close(ignored);
  read_timer_.cancel();
  write_timer_.cancel();
  if (!answered_ && on_disconnect_ != nullptr) std::exchange(on_disconnect_, nullptr)();
  on_disconnect_ = nullptr;
  context_.on_closed(this);
}

void HttpSession::CloseIfIdle(std::function<void()> then) {
  ErrorCode error;
  if (state_ != State::kIdle || !reading_ahead_ || on_decided_ != nullptr || socket_.available(error) > 0) {
    return then();
  }
  // Closing at once would lose a request that the read has got and not told of yet.
  on_decided_ = std::move(then);
  socket_.cancel(error);
}

void HttpSession::ArmRead(absl::Duration timeout) {
  read_timer_.expires_after(absl::ToChronoNanoseconds(timeout));
  read_timer_.async_wait([self = shared_from_this()](ErrorCode error) {
    // A wait that was due when the timer was set anew still arrives here.
    if (error || self->read_timer_.expiry() > asio::steady_timer::clock_type::now()) return;
    if (self->state_ == State::kReading) {
      self->timed_out_ = true;
      ErrorCode ignored;
      self->socket_.cancel(ignored);
    } else if (self->state_ != State::kAnswering) {
      self->Close();
    }
  });
}

// Reads what comes next without knowing what it is: the next request, or the end of the connection.
void HttpSession::ReadAhead() {
  reading_ahead_ = true;
  socket_.async_read_some(
      buffer_.prepare(kReadBytes),
      [self = shared_from_this()](ErrorCode error, size_t bytes) { self->OnReadAhead(error, bytes); });
}

void HttpSession::OnReadAhead(ErrorCode error, size_t bytes) {
  reading_ahead_ = false;
  TakeReadAhead(error, bytes);
  if (on_decided_ != nullptr) std::exchange(on_decided_, nullptr)();
}

void HttpSession::TakeReadAhead(ErrorCode error, size_t bytes) {
  const bool resume = std::exchange(resume_, false);
  if (state_ == State::kClosed) return;
  if (error == asio::error::eof && state_ == State::kAnswering) return OnClientEnd();
  if (error && !(resume && error == asio::error::operation_aborted)) return Close();
  buffer_.commit(bytes);
  switch (state_) {
    case State::kIdle:
      BeginRequest();
      break;
    case State::kAnswering:
      if (buffer_.size() < context_.options.max_pipelined_bytes) ReadAhead();
      break;
    case State::kLingering:
      buffer_.consume(buffer_.size());
      ReadAhead();
      break;
    default:
      break;
  }
}

// A client that leaves and one that merely ends its sending side look the same until something is written to
// it. As nginx, Go's net/http and llama-server have it, both count as leaving: what would be made for it is
// cancelled. What the handler answers in spite of that, and what is made already, goes out.
void HttpSession::OnClientEnd() {
  client_ended_ = true;
  keep_alive_ = false;
  if (!answered_ && on_disconnect_ != nullptr) std::exchange(on_disconnect_, nullptr)();
}

void HttpSession::BeginRequest() {
  state_ = State::kReading;
  idle_since_ = 0;
  timed_out_ = false;
  request_id_.clear();
  request_ = {};
  added_.clear();
  parser_.emplace();
  LimitParser(context_.options, &*parser_);
  ArmRead(context_.options.header_timeout);
  http::async_read_header(socket_, buffer_, *parser_,
                          [self = shared_from_this()](ErrorCode error, size_t) { self->OnHeader(error); });
}

void HttpSession::OnHeader(ErrorCode error) {
  if (state_ == State::kClosed) return;
  // A body that is announced as too large fails here, with the header whole.
  if (error && error != http::error::body_limit) return FailRead(error);
  const auto& request = parser_->get();
  request_id_ = RequestId(ToString(request["X-Request-Id"]));
  http_1_0_ = request.version() < 11;
  head_only_ = request.method() == http::verb::head;
  keep_alive_ = request.keep_alive();
  if (const absl::Status framing = CheckHeader(*parser_); !framing.ok()) {
    return SendError(400, std::string(framing.message()));
  }
  request_ = HeadOf(*parser_);
  request_.request_id = request_id_;
  const HttpServerOptions& options = context_.options;
  if (options.add_headers) added_ = options.add_headers(request_);
  if (options.gate) {
    if (std::optional<HttpResponse> refusal = options.gate(&request_); refusal.has_value()) {
      // Where the next request begins is known only when this one's body has been read.
      if (!parser_->is_done()) keep_alive_ = false;
      return Answer(*std::move(refusal));
    }
  }
  if (error) return FailRead(error);
  ArmRead(context_.draining ? kLingerTimeout : context_.options.body_timeout);
  if (parser_->is_done() || !boost::beast::iequals(request[http::field::expect], "100-continue"))
    return ReadBody();
  static constexpr char kContinue[] = "HTTP/1.1 100 Continue\r\n\r\n";
  asio::async_write(socket_, asio::buffer(kContinue, sizeof(kContinue) - 1),
                    [self = shared_from_this()](ErrorCode write_error, size_t) {
                      if (write_error) return self->FailRead(write_error);
                      self->ReadBody();
                    });
}

void HttpSession::ReadBody() {
  http::async_read(socket_, buffer_, *parser_,
                   [self = shared_from_this()](ErrorCode error, size_t) { self->OnBody(error); });
}

void HttpSession::OnBody(ErrorCode error) {
  if (state_ == State::kClosed) return;
  if (error) return FailRead(error);
  Dispatch();
}

void HttpSession::FailRead(ErrorCode error) {
  if (state_ == State::kClosed) return;
  const HttpServerOptions& options = context_.options;
  if (timed_out_) return SendError(408, "the request did not arrive in time");
  if (error == http::error::body_limit) {
    return SendError(413, absl::StrCat("the body is larger than ", options.max_body_bytes, " bytes"));
  }
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return SendError(431, absl::StrCat("the header is larger than ", options.max_header_bytes, " bytes"));
  }
  if (error.category() == http::make_error_code(http::error::bad_method).category() &&
      error != http::error::end_of_stream && error != http::error::partial_message) {
    return SendError(400, absl::StrCat("malformed HTTP: ", error.message()));
  }
  Close();
}

void HttpSession::Dispatch() {
  HttpRequest request = request_;  // of which the head goes on to be the answer's
  request.body = std::move(parser_->get().body());
  parser_.reset();
  state_ = State::kAnswering;
  answered_ = false;
  const uint64_t serial = ++serial_;
  if (buffer_.size() < context_.options.max_pipelined_bytes) ReadAhead();
  context_.handler(std::move(request), std::make_shared<Responder>(shared_from_this(), serial));
}

// An error of the connection: it is closed afterwards, since what follows cannot be told apart.
void HttpSession::SendError(int status, const std::string& message) {
  keep_alive_ = false;
  if (request_id_.empty()) request_id_ = RequestId("");
  HttpResponse response;
  response.status = status;
  response.body = context_.error_body(status, message);
  Answer(std::move(response));
}

void HttpSession::Answer(HttpResponse response) {
  parser_.reset();
  state_ = State::kAnswering;
  answered_ = false;
  Send(++serial_, std::move(response));
}

}  // namespace moepool
