// See http_stream.h.
#include "tools/http_stream.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "boost/asio/buffer.hpp"
#include "boost/beast/http/buffer_body.hpp"
#include "boost/beast/http/parser.hpp"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

namespace http = boost::beast::http;

absl::Status NotHttp(const boost::system::error_code& error) {
  return absl::DataLossError(StrCat("not an answer in HTTP: ", error.message()));
}

// What an answer's bytes say, as they come.
class AnswerReader {
 public:
  explicit AnswerReader(const std::function<void(std::string_view)>& on_body) : on_body_(on_body) {
    parser_.body_limit(std::numeric_limits<uint64_t>::max());
  }

  bool started() const { return parser_.got_some(); }
  bool done() const { return parser_.is_done(); }
  // Whether the connection may be used again.
  bool keep_alive() const { return parser_.keep_alive(); }
  HttpAnswer Take() { return std::move(answer_); }

  absl::Status Feed(std::string_view bytes) {
    unparsed_.append(bytes);
    while (!unparsed_.empty() && !parser_.is_done()) {
      parser_.get().body().data = decoded_;
      parser_.get().body().size = sizeof(decoded_);
      boost::system::error_code error;
      const size_t used = parser_.put(boost::asio::buffer(unparsed_), error);
      unparsed_.erase(0, used);
      if (error && error != http::error::need_more && error != http::error::need_buffer) {
        return NotHttp(error);
      }
      if (parser_.is_header_done()) Give({decoded_, sizeof(decoded_) - parser_.get().body().size});
      if (error == http::error::need_more || used == 0) break;
    }
    return absl::OkStatus();
  }

  absl::Status End() {
    boost::system::error_code error;
    if (parser_.got_some()) parser_.put_eof(error);
    if (!error && parser_.is_done()) return absl::OkStatus();
    return absl::UnavailableError("the connection ended within the answer");
  }

 private:
  void Give(std::string_view bytes) {
    answer_.status = static_cast<int>(parser_.get().result_int());
    if (answer_.status != 200 || !on_body_) {
      answer_.body.append(bytes);
    } else if (!bytes.empty()) {
      on_body_(bytes);
    }
  }

  const std::function<void(std::string_view)>& on_body_;
  http::response_parser<http::buffer_body> parser_;
  HttpAnswer answer_;
  std::string unparsed_;
  char decoded_[16 * 1024];
};

}  // namespace

// A connected TCP socket.
class HttpClient::Connection {
 public:
  ~Connection() {
    if (fd_ >= 0) close(fd_);
  }
  Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  absl::Status Connect(const HostPort& address, absl::Time deadline) {
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (const int error =
            getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
        error != 0) {
      return absl::UnavailableError(StrCat(address.ToString(), ": ", gai_strerror(error)));
    }
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, freeaddrinfo);
    int error = 0;
    for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
      if (fd_ >= 0) close(fd_);
      fd_ = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
      if (fd_ < 0) return absl::UnavailableError(StrCat("socket: ", std::strerror(errno)));
      const int on = 1;
      setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      if (connect(fd_, a->ai_addr, a->ai_addrlen) == 0) return absl::OkStatus();
      error = errno;
      if (error != EINPROGRESS) continue;
      MOEPOOL_RETURN_IF_ERROR(Wait(POLLOUT, deadline));
      socklen_t length = sizeof(error);
      getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &length);
      if (error == 0) return absl::OkStatus();
    }
    return absl::UnavailableError(StrCat(address.ToString(), ": ", std::strerror(error)));
  }

  // Whether the server has neither closed it nor sent what nobody asked for.
  bool Quiet() const {
    pollfd poll_fd = {fd_, POLLIN, 0};
    return poll(&poll_fd, 1, 0) == 0;
  }

  absl::Status Exchange(const std::string& request, absl::Time deadline, AnswerReader* reader) {
    MOEPOOL_RETURN_IF_ERROR(Send(request, deadline));
    while (!reader->done()) {
      char received[16 * 1024];
      MOEPOOL_ASSIGN_OR_RETURN(const size_t size, Receive(received, sizeof(received), deadline));
      MOEPOOL_RETURN_IF_ERROR(size == 0 ? reader->End() : reader->Feed({received, size}));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Send(std::string_view bytes, absl::Time deadline) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent >= 0) {
        bytes.remove_prefix(static_cast<size_t>(sent));
      } else if (errno == EAGAIN) {
        MOEPOOL_RETURN_IF_ERROR(Wait(POLLOUT, deadline));
      } else if (errno != EINTR) {
        return absl::UnavailableError(StrCat("send: ", std::strerror(errno)));
      }
    }
    return absl::OkStatus();
  }

  // 0 at the end of the stream.
  absl::StatusOr<size_t> Receive(char* bytes, size_t size, absl::Time deadline) {
    for (;;) {
      const ssize_t received = recv(fd_, bytes, size, 0);
      if (received >= 0) return static_cast<size_t>(received);
      if (errno == EAGAIN) {
        MOEPOOL_RETURN_IF_ERROR(Wait(POLLIN, deadline));
      } else if (errno != EINTR) {
        return absl::UnavailableError(StrCat("receive: ", std::strerror(errno)));
      }
    }
  }

  absl::Status Wait(short events, absl::Time deadline) const {
    const absl::Duration left = std::clamp(deadline - absl::Now(), absl::ZeroDuration(), absl::Hours(1));
    pollfd poll_fd = {fd_, events, 0};
    const int ready = poll(&poll_fd, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0 || (ready < 0 && errno == EINTR)) return absl::OkStatus();
    return absl::DeadlineExceededError("the server was silent until the deadline");
  }

  int fd_ = -1;
};

HttpClient::HttpClient(HostPort address) : address_(std::move(address)) {}
HttpClient::~HttpClient() = default;

std::unique_ptr<HttpClient::Connection> HttpClient::TakeKept() {
  MutexLock lock(&mutex_);
  while (!kept_.empty()) {
    std::unique_ptr<Connection> connection = std::move(kept_.back());
    kept_.pop_back();
    if (connection->Quiet()) return connection;
  }
  return nullptr;
}

absl::StatusOr<HttpAnswer> HttpClient::Exchange(const std::string& path, const std::string& body,
                                                absl::Time deadline,
                                                const std::function<void(std::string_view)>& on_body) {
  std::string request =
      StrCat(body.empty() ? "GET " : "POST ", path, " HTTP/1.1\r\nHost: ", address_.ToString(), "\r\n");
  if (!body.empty()) {
    request += StrCat("Content-Type: application/json\r\nContent-Length: ", body.size(), "\r\n");
  }
  request += StrCat("\r\n", body);
  for (;;) {
    std::unique_ptr<Connection> connection = TakeKept();
    const bool kept = connection != nullptr;
    if (!kept) {
      connection = std::make_unique<Connection>();
      MOEPOOL_RETURN_IF_ERROR(connection->Connect(address_, deadline));
    }
    AnswerReader reader(on_body);
    const absl::Status status = connection->Exchange(request, deadline, &reader);
    // The server may have ended a connection that was kept, just as the request was sent.
    if (absl::IsUnavailable(status) && kept && !reader.started()) continue;
    MOEPOOL_RETURN_IF_ERROR(status);
    if (reader.keep_alive()) {
      MutexLock lock(&mutex_);
      kept_.push_back(std::move(connection));
    }
    return reader.Take();
  }
}

void EventLines::Feed(std::string_view bytes) {
  for (;;) {
    const size_t end = bytes.find('\n');
    line_.append(bytes.substr(0, end));
    if (end == std::string_view::npos) return;
    bytes.remove_prefix(end + 1);
    std::string_view line = line_;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    constexpr std::string_view kData = "data:";
    if (line.substr(0, kData.size()) == kData) {
      line.remove_prefix(kData.size());
      if (!line.empty() && line.front() == ' ') line.remove_prefix(1);
      on_data_(line);
    }
    line_.clear();
  }
}

}  // namespace moepool
