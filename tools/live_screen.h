// A terminal taken over for a picture that is drawn again and again, and given back as it was.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace moepool {

// One in a process, used from one thread. From its making until its end: the terminal's second screen without
// a cursor, keys unseen, and SIGTERM, SIGINT and SIGHUP caught.
class LiveScreen {
 public:
  LiveScreen();
  ~LiveScreen();
  LiveScreen(const LiveScreen&) = delete;
  LiveScreen& operator=(const LiveScreen&) = delete;

  int columns() const;
  int rows() const;
  // Lines as wide as the screen at most.
  void Draw(const std::vector<std::string>& lines);

  enum class Event { kTime, kResized, kQuit };
  // Until the size changes, someone wants to quit (q, Ctrl-C or SIGTERM), or time is up.
  Event Wait(absl::Time until);
};

}  // namespace moepool
