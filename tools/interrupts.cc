#include "tools/interrupts.h"

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
std::atomic<int> g_write_fd{-1};
std::atomic<bool> g_armed{false};     // there is something to stop
std::atomic<bool> g_stopping{false};  // and it has been told to
int g_read_fd = -1;
struct sigaction g_old;

void OnInterrupt(int) {
  if (!g_armed) return;
  if (g_stopping.exchange(true)) _exit(130);
  const int saved_errno = errno;
  const char stop = 's';
  [[maybe_unused]] const ssize_t written = write(g_write_fd, &stop, 1);
  errno = saved_errno;
}

}  // namespace

Interrupts::Interrupts() {
  MOEPOOL_CHECK(g_write_fd < 0);
  int fds[2];
  MOEPOOL_CHECK(pipe2(fds, O_CLOEXEC) == 0);
  g_read_fd = fds[0];
  g_write_fd = fds[1];
  thread_ = std::thread([this] { Run(); });
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &g_old);
}

Interrupts::~Interrupts() {
  sigaction(SIGINT, &g_old, nullptr);
  const char quit = 'q';
  [[maybe_unused]] const ssize_t written = write(g_write_fd, &quit, 1);
  thread_.join();
  close(g_write_fd.exchange(-1));
  close(g_read_fd);
}

void Interrupts::Set(std::function<void()> action) {
  MutexLock lock(&mutex_);
  g_armed = action != nullptr;
  g_stopping = false;
  action_ = std::move(action);
}

void Interrupts::Run() {
  while (true) {
    char command = 0;
    if (read(g_read_fd, &command, 1) < 0 && errno == EINTR) continue;
    if (command != 's') return;
    MutexLock lock(&mutex_);
    if (action_) action_();
  }
}

}  // namespace moepool
