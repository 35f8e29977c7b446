#include "common/base/signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <utility>

#include "common/base/status_macros.h"

namespace moepool {
namespace {

// What a handler may touch: lock-free atomics and a pipe.
std::atomic<int> g_signals{0};
std::atomic<int> g_write_fd{-1};
int g_read_fd = -1;
struct sigaction g_old_term, g_old_int, g_old_pipe;
static_assert(std::atomic<int>::is_always_lock_free);

void OnSignal(int number) {
  const int saved_errno = errno;
  if (g_signals.fetch_add(1) > 0) _exit(128 + number);
  const char drain = 'd';
  // The pipe is empty, so one byte fits.
  [[maybe_unused]] const ssize_t written = write(g_write_fd.load(), &drain, 1);
  errno = saved_errno;
}

}  // namespace

SignalWatcher::SignalWatcher(std::function<void()> on_drain) {
  MOEPOOL_CHECK(g_write_fd.load() < 0);
  int fds[2];
  MOEPOOL_CHECK(pipe2(fds, O_CLOEXEC) == 0);
  g_read_fd = fds[0];
  g_write_fd = fds[1];
  g_signals = 0;
  thread_ = std::thread([on_drain = std::move(on_drain)] {
    char command = 0;
    while (read(g_read_fd, &command, 1) < 0 && errno == EINTR) {
    }
    if (command == 'd') on_drain();
  });
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, &g_old_term);
  sigaction(SIGINT, &action, &g_old_int);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, &g_old_pipe);
}

SignalWatcher::~SignalWatcher() {
  sigaction(SIGTERM, &g_old_term, nullptr);
  sigaction(SIGINT, &g_old_int, nullptr);
  sigaction(SIGPIPE, &g_old_pipe, nullptr);
  const char quit = 'q';
  [[maybe_unused]] const ssize_t written = write(g_write_fd.load(), &quit, 1);
  thread_.join();
  close(g_write_fd.exchange(-1));
  close(g_read_fd);
}

}  // namespace moepool
