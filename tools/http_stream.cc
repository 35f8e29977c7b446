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

#include "absl/time/clock.h"
#include "boost/asio/buffer.hpp"
#include "boost/beast/http/buffer_body.hpp"
#include "boost/beast/http/parser.hpp"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

namespace http = boost::beast::http;

// A connected TCP socket.
class Connection {
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

 private:
  absl::Status Wait(short events, absl::Time deadline) const {
    const absl::Duration left = std::clamp(deadline - absl::Now(), absl::ZeroDuration(), absl::Hours(1));
    pollfd poll_fd = {fd_, events, 0};
    const int ready = poll(&poll_fd, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0 || (ready < 0 && errno == EINTR)) return absl::OkStatus();
    return absl::DeadlineExceededError("the server was silent until the deadline");
  }

  int fd_ = -1;
};

absl::Status NotHttp(const boost::system::error_code& error) {
  return absl::DataLossError(StrCat("not an answer in HTTP: ", error.message()));
}

}  // namespace

absl::StatusOr<HttpAnswer> HttpExchange(const HostPort& address, const std::string& path,
                                        const std::string& body, absl::Time deadline,
                                        const std::function<void(std::string_view)>& on_body) {
  Connection connection;
  MOEPOOL_RETURN_IF_ERROR(connection.Connect(address, deadline));
  std::string request = StrCat(body.empty() ? "GET " : "POST ", path,
                               " HTTP/1.1\r\nHost: ", address.ToString(), "\r\nConnection: close\r\n");
  if (!body.empty()) {
    request += StrCat("Content-Type: application/json\r\nContent-Length: ", body.size(), "\r\n");
  }
  MOEPOOL_RETURN_IF_ERROR(connection.Send(StrCat(request, "\r\n", body), deadline));

  http::response_parser<http::buffer_body> parser;
  parser.body_limit(std::numeric_limits<uint64_t>::max());
  HttpAnswer answer;
  std::string unparsed;
  char decoded[16 * 1024];
  while (!parser.is_done()) {
    char received[16 * 1024];
    MOEPOOL_ASSIGN_OR_RETURN(const size_t size, connection.Receive(received, sizeof(received), deadline));
    boost::system::error_code error;
    if (size == 0) {
      if (parser.got_some()) parser.put_eof(error);
      if (error || !parser.is_done()) return absl::UnavailableError("the connection ended within the answer");
      break;
    }
    unparsed.append(received, size);
    while (!unparsed.empty() && !parser.is_done()) {
      parser.get().body().data = decoded;
      parser.get().body().size = sizeof(decoded);
      const size_t used = parser.put(boost::asio::buffer(unparsed), error);
      unparsed.erase(0, used);
      if (error && error != http::error::need_more && error != http::error::need_buffer)
        return NotHttp(error);
      if (parser.is_header_done()) {
        answer.status = static_cast<int>(parser.get().result_int());
        const std::string_view bytes(decoded, sizeof(decoded) - parser.get().body().size);
        if (answer.status == 200 && on_body) {
          if (!bytes.empty()) on_body(bytes);
        } else {
          answer.body.append(bytes);
        }
      }
      if (error == http::error::need_more || used == 0) break;
    }
  }
  return answer;
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
