#include "tools/live_screen.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>

#include "common/base/status_macros.h"

namespace moepool {
namespace {

constexpr int kCaught[] = {SIGTERM, SIGINT, SIGHUP, SIGWINCH};

// What a handler may touch.
std::atomic<int> g_write_fd{-1};
int g_read_fd = -1;
struct sigaction g_old[std::size(kCaught)];
struct termios g_terminal;

void OnSignal(int number) {
  const int saved_errno = errno;
  const char event = number == SIGWINCH ? 'r' : 'q';
  // Where the pipe is full, someone is about to look anyway.
  [[maybe_unused]] const ssize_t written = write(g_write_fd, &event, 1);
  errno = saved_errno;
}

void WriteAll(const std::string& text) {
  size_t at = 0;
  while (at < text.size()) {
    const ssize_t written = write(STDOUT_FILENO, text.data() + at, text.size() - at);
    if (written < 0 && errno != EINTR) return;  // the terminal is gone, and SIGHUP says so
    if (written > 0) at += static_cast<size_t>(written);
  }
}

struct winsize Size() {
  struct winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) {
    size.ws_col = 80;
    size.ws_row = 24;
  }
  return size;
}

}  // namespace

LiveScreen::LiveScreen() {
  MOEPOOL_CHECK(g_write_fd < 0);
  int fds[2];
  MOEPOOL_CHECK(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
  g_read_fd = fds[0];
  g_write_fd = fds[1];
  tcgetattr(STDIN_FILENO, &g_terminal);
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < std::size(kCaught); ++i) sigaction(kCaught[i], &action, &g_old[i]);
  struct termios quiet = g_terminal;
  quiet.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  quiet.c_cc[VSUSP] = _POSIX_VDISABLE;  // stopped, it would leave the second screen behind
  quiet.c_cc[VMIN] = 0;
  quiet.c_cc[VTIME] = 0;
  tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
  WriteAll("\x1b[?1049h\x1b[?25l");
}

LiveScreen::~LiveScreen() {
  WriteAll("\x1b[0m\x1b[?25h\x1b[?1049l");
  tcsetattr(STDIN_FILENO, TCSAFLUSH, &g_terminal);
  for (size_t i = 0; i < std::size(kCaught); ++i) sigaction(kCaught[i], &g_old[i], nullptr);
  close(g_write_fd.exchange(-1));
  close(g_read_fd);
}

int LiveScreen::columns() const { return Size().ws_col; }
int LiveScreen::rows() const { return Size().ws_row; }

void LiveScreen::Draw(const std::vector<std::string>& lines) {
  // In one write and without clearing first, so that nothing flickers. No line end after the last line, which
  // would scroll.
  std::string frame = "\x1b[H";
  for (size_t i = 0; i < lines.size(); ++i) {
    frame += lines[i];
    frame += i + 1 < lines.size() ? "\x1b[K\r\n" : "\x1b[K";
  }
  WriteAll(frame + "\x1b[J");
}

LiveScreen::Event LiveScreen::Wait(absl::Time until) {
  struct pollfd fds[] = {{g_read_fd, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
  while (true) {
    const int64_t left_ms = absl::ToInt64Milliseconds(absl::Ceil(until - absl::Now(), absl::Milliseconds(1)));
    if (poll(fds, 2, static_cast<int>(std::clamp<int64_t>(left_ms, 0, 1'000'000))) < 0 && errno != EINTR) {
      return Event::kQuit;
    }
    Event event = Event::kTime;
    char c = 0;
    while (read(g_read_fd, &c, 1) == 1) {
      if (c == 'q') return Event::kQuit;
      event = Event::kResized;
    }
    while (read(STDIN_FILENO, &c, 1) == 1) {
      if (c == 'q' || c == 'Q' || c == 3) return Event::kQuit;
    }
    if (event == Event::kResized || absl::Now() >= until) return event;
    // A terminal that has been hung up stays readable and gives nothing.
    if ((fds[1].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) return Event::kQuit;
  }
}

}  // namespace moepool
