// The second half of a session: what it answers, and the end of it.
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "boost/asio/buffer.hpp"
#include "boost/beast/http/status.hpp"
#include "common/base/log.h"
#include "gateway/http/http_session.h"

namespace moepool {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

}  // namespace

std::string HttpSession::Head(int status, const std::string& content_type,
                              std::optional<size_t> length) const {
  const auto reason = http::obsolete_reason(http::int_to_status(status));
  std::string head = absl::StrCat("HTTP/1.1 ", status, " ", ToString(reason), "\r\n");
  if (!content_type.empty()) absl::StrAppend(&head, "Content-Type: ", content_type, "\r\n");
  if (length.has_value()) absl::StrAppend(&head, "Content-Length: ", *length, "\r\n");
  if (!request_id_.empty()) absl::StrAppend(&head, "X-Request-Id: ", request_id_, "\r\n");
  for (const auto& [name, value] : added_) absl::StrAppend(&head, name, ": ", value, "\r\n");
  if (chunked_) absl::StrAppend(&head, "Transfer-Encoding: chunked\r\n");
  if (!keep_alive_) {
    absl::StrAppend(&head, "Connection: close\r\n");
  } else if (http_1_0_) {
    absl::StrAppend(&head, "Connection: keep-alive\r\n");
  }
  return head;
}

void HttpSession::Send(uint64_t serial, HttpResponse response) {
  if (!IsCurrent(serial)) return;
  chunked_ = false;
  if (context_.draining) keep_alive_ = false;
  std::optional<size_t> length;
  if (response.status != 204 && response.status != 304) length = response.body.size();
  std::string data = Head(response.status, length.has_value() ? response.content_type : "", length);
  for (const auto& [name, value] : response.headers) absl::StrAppend(&data, name, ": ", value, "\r\n");
  absl::StrAppend(&data, "\r\n", head_only_ ? "" : response.body);
  answered_ = true;
  if (context_.options.on_answer) context_.options.on_answer(request_, response.status);
  Queue(std::move(data));
}

void HttpSession::StartStream(uint64_t serial, const std::string& content_type) {
  if (!IsCurrent(serial)) return;
  chunked_ = !http_1_0_;
  if (context_.draining || http_1_0_) keep_alive_ = false;
  if (context_.options.on_answer) context_.options.on_answer(request_, 200);
  Gather(absl::StrCat(Head(200, content_type, std::nullopt),
                      "Cache-Control: no-store\r\nX-Accel-Buffering: no\r\n\r\n"));
}

void HttpSession::Write(uint64_t serial, const std::string& data) {
  if (!IsCurrent(serial) || data.empty()) return;
  Queue(chunked_ ? absl::StrCat(absl::StrFormat("%x", data.size()), "\r\n", data, "\r\n") : data);
}

void HttpSession::EndStream(uint64_t serial) {
  if (!IsCurrent(serial)) return;
  answered_ = true;
  Queue(chunked_ ? "0\r\n\r\n" : "");
}

void HttpSession::OnDisconnect(uint64_t serial, std::function<void()> callback) {
  if (serial != serial_ || answered_) return;
  if (client_ended_ || state_ != State::kAnswering) return callback();
  on_disconnect_ = std::move(callback);
}

void HttpSession::Abandon(uint64_t serial) {
  if (IsCurrent(serial)) Close();
}

void HttpSession::Queue(std::string_view data) {
  if (Gather(data) && writing_.empty()) FlushQueue();
}

// What is generated does not wait for who reads it: a stream that gathers is given up, and so is any answer
// where those of all clients together take too much.
bool HttpSession::Gather(std::string_view data) {
  const UnreadBudget& all = *context_.options.unread;
  const bool too_much = !answered_ && queued_.size() > all.limits().call_bytes;
  unread_.Add(data.size());
  queued_ += data;
  if (!too_much && (all.bytes() <= all.limits().bytes || queued_.size() <= kReadBytes)) return true;
  Log(LogLevel::kWarning, "closed a connection whose client reads too slowly",
      {{"request_id", request_id_}, {"unread_bytes", unread_.bytes()}, {"unread_bytes_of_all", all.bytes()}});
  answered_ = false;  // it is not: the client's leaving is told
  Close();
  return false;
}

// Nearly always the socket takes all at once, and nothing has to be waited for.
void HttpSession::FlushQueue() {
  while (!queued_.empty()) {
    writing_ = std::exchange(queued_, "");
    ErrorCode error;
    written_bytes_ = socket_.write_some(asio::buffer(writing_), error);
    if (error && error != asio::error::would_block) return OnWritten(error);
    if (written_bytes_ < writing_.size()) return WriteSome();
    unread_.Remove(writing_.size());
    writing_.clear();
  }
  if (answered_) FinishAnswer();
}

// One piece at a time, so that the timer sees a client that reads slowly but does read.
void HttpSession::WriteSome() {
  write_timer_.expires_after(absl::ToChronoNanoseconds(context_.options.write_timeout));
  write_timer_.async_wait([self = shared_from_this()](ErrorCode error) {
    if (error || self->writing_.empty() ||
        self->write_timer_.expiry() > asio::steady_timer::clock_type::now())
      return;
    self->Close();
  });
  socket_.async_write_some(asio::buffer(writing_) + written_bytes_,
                           [self = shared_from_this()](ErrorCode error, size_t bytes) {
                             self->written_bytes_ += bytes;
                             if (error || self->written_bytes_ == self->writing_.size())
                               return self->OnWritten(error);
                             self->WriteSome();
                           });
}

void HttpSession::OnWritten(ErrorCode error) {
  unread_.Remove(writing_.size());
  writing_.clear();
  write_timer_.cancel();
  if (state_ == State::kClosed) return;
  if (error) return Close();
  FlushQueue();
}

void HttpSession::FinishAnswer() {
  on_disconnect_ = nullptr;
  if (!keep_alive_ || context_.draining) return Linger();
  state_ = State::kIdle;
  if (buffer_.size() == 0) {
    BecomeIdle();
  } else if (reading_ahead_) {
    resume_ = true;  // the read ahead ends, and the next request begins with what it had read
    ErrorCode ignored;
    socket_.cancel(ignored);
  } else {
    BeginRequest();
  }
}

// Closing while the client still sends would reset the connection, and the answer might be lost with it.
void HttpSession::Linger() {
  state_ = State::kLingering;
  ErrorCode error;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, error);
  if (error) return Close();
  ArmRead(kLingerTimeout);
  buffer_.consume(buffer_.size());
  if (!reading_ahead_) ReadAhead();
}

}  // namespace moepool
