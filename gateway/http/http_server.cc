#include "gateway/http/http_server.h"

#include <algorithm>
#include <limits>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "boost/asio/post.hpp"
#include "common/base/log.h"
#include "common/base/mutex.h"
#include "gateway/http/http_session.h"
#include "gateway/http/io_threads.h"
#include "gateway/request_id.h"

namespace moepool {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

class HttpServerImpl : public HttpServer {
 public:
  HttpServerImpl(const HttpServerOptions& options, HttpHandler handler, HttpErrorBody error_body)
      : acceptor_(asio::make_strand(io_)), retry_timer_(acceptor_.get_executor()) {
    context_.options = options;
    if (options.unread == nullptr) context_.options.unread = &own_unread_;
    context_.handler = std::move(handler);
    context_.error_body = std::move(error_body);
    context_.on_closed = [this](HttpSession* session) { OnClosed(session); };
  }

  ~HttpServerImpl() override {
    Drain(absl::Now());
    io_.stop();
    for (std::thread& thread : threads_) thread.join();
  }

  absl::Status Listen() {
    const HostPort& wanted = context_.options.address;
    const auto fail = [&](const ErrorCode& error) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", wanted.ToString(), ": ", error.message()));
    };
    ErrorCode error;
    tcp::resolver resolver(io_);
    const auto found = resolver.resolve(wanted.host, std::to_string(wanted.port), error);
    if (error) return fail(error);
    tcp::endpoint endpoint = found.begin()->endpoint();
    // Of a name with both, such as localhost, IPv4 is what clients expect.
    for (const auto& entry : found) {
      if (entry.endpoint().address().is_v4()) {
        endpoint = entry.endpoint();
        break;
      }
    }
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) return fail(error);
    address_ = {wanted.host, acceptor_.local_endpoint().port()};
    asio::post(acceptor_.get_executor(), [this] { Accept(); });
    for (int i = 0; i < context_.options.threads; ++i) {
      threads_.emplace_back([this] {
        is_io_thread = true;
        io_.run();
      });
    }
    return absl::OkStatus();
  }

  const HostPort& address() const override { return address_; }

  int connections() override {
    MutexLock lock(&mutex_);
    return static_cast<int>(sessions_.size());
  }

  void Drain(absl::Time deadline) override {
    asio::post(acceptor_.get_executor(), [this] {
      ErrorCode ignored;
      acceptor_.close(ignored);
      retry_timer_.cancel();
    });
    {
      MutexLock lock(&mutex_);
      context_.draining = true;
    }
    ForAll([](HttpSession& session) { session.OnDrain(); });
    if (WaitClosed(deadline)) return;
    ForAll([](HttpSession& session) { session.Close(); });
    WaitClosed(absl::InfiniteFuture());
  }

 private:
  void Accept() {
    acceptor_.async_accept(asio::make_strand(LendingExecutor(io_.get_executor())),
                           [this](ErrorCode error, tcp::socket socket) {
                             if (!acceptor_.is_open()) return;
                             if (error) {
                               // Out of descriptors, most likely: give others time to close theirs.
                               Log(LogLevel::kWarning, "cannot accept", {{"error", error.message()}});
                               retry_timer_.expires_after(std::chrono::milliseconds(100));
                               retry_timer_.async_wait([this](ErrorCode wait_error) {
                                 if (!wait_error) Accept();
                               });
                               return;
                             }
                             StartSession(std::move(socket));
                             Accept();
                           });
  }

  // Where there are too many, the session that has been idle longest makes place: its client expects as much
  // of a connection that it keeps. None idle: refused.
  void StartSession(tcp::socket socket) {
    std::shared_ptr<HttpSession> idle;  // let go of without the lock: its end takes that
    if (AddSession(&socket, &idle)) return;
    if (idle == nullptr) return Refuse(std::move(socket));
    const auto waiting = std::make_shared<tcp::socket>(std::move(socket));
    asio::post(idle->executor(), [this, idle, waiting] {
      idle->CloseIfIdle([this, waiting] { StartSession(std::move(*waiting)); });
    });
  }

  // False where there is no room, and the socket is left; then `idle` may make it, if there is one.
  bool AddSession(tcp::socket* socket, std::shared_ptr<HttpSession>* idle) {
    MutexLock lock(&mutex_);
    if (context_.draining) return false;
    if (static_cast<int>(sessions_.size()) >= context_.options.max_connections) {
      *idle = LongestIdle();
      return false;
    }
    const auto session = std::make_shared<HttpSession>(std::move(*socket), &context_);
    sessions_[session.get()] = session;
    asio::post(session->executor(), [session] { session->Start(); });
    return true;
  }

  // Null where none is; the same one again only when it has been used meanwhile.
  std::shared_ptr<HttpSession> LongestIdle() REQUIRES(mutex_) {
    for (;;) {
      auto longest = sessions_.end();
      uint64_t since = std::numeric_limits<uint64_t>::max();
      for (auto it = sessions_.begin(); it != sessions_.end(); ++it) {
        const uint64_t its = it->first->idle_since();
        if (its == 0 || its >= since) continue;
        longest = it;
        since = its;
      }
      if (longest == sessions_.end()) return nullptr;
      longest->first->ForgetIdle();
      if (auto session = longest->second.lock()) return session;
    }
  }

  // One small write into an empty socket buffer; whether it arrives is the client's luck.
  void Refuse(tcp::socket socket) {
    const std::string body = context_.error_body(503, "too many connections");
    const std::string response = absl::StrCat(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: ", body.size(),
        "\r\nX-Request-Id: ", RequestId(""), "\r\nRetry-After: 1\r\nConnection: close\r\n\r\n", body);
    if (context_.options.on_answer) context_.options.on_answer(HttpRequest(), 503);
    ErrorCode ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(response), ignored);
    socket.shutdown(tcp::socket::shutdown_send, ignored);
  }

  void ForAll(void (*action)(HttpSession&)) {
    MutexLock lock(&mutex_);
    for (auto& [key, weak] : sessions_) {
      asio::post(key->executor(), [weak = weak, action] {
        if (const auto session = weak.lock()) action(*session);
      });
    }
  }

  bool WaitClosed(absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (!sessions_.empty()) {
      const absl::Time now = absl::Now();
      if (now >= deadline) return false;
      closed_.WaitFor(&mutex_, absl::ToChronoNanoseconds(std::min(deadline - now, absl::Hours(1))));
    }
    return true;
  }

  void OnClosed(HttpSession* session) {
    MutexLock lock(&mutex_);
    sessions_.erase(session);
    closed_.NotifyAll();
  }

  // Handlers that are destroyed with io_ may end sessions, so what those touch comes first.
  Mutex mutex_;
  CondVar closed_;
  absl::flat_hash_map<HttpSession*, std::weak_ptr<HttpSession>> sessions_ GUARDED_BY(mutex_);
  UnreadBudget own_unread_{UnreadLimits()};
  HttpSessionContext context_;
  asio::io_context io_;
  tcp::acceptor acceptor_;
  asio::steady_timer retry_timer_;
  HostPort address_;
  std::vector<std::thread> threads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options,
                                                              HttpHandler handler, HttpErrorBody error_body) {
  auto server = std::make_unique<HttpServerImpl>(options, std::move(handler), std::move(error_body));
  if (const absl::Status status = server->Listen(); !status.ok()) return status;
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace moepool
