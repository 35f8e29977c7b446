// What a process does and when, as a file in Chrome's trace format (chrome://tracing, ui.perfetto.dev). All
// processes of a host append to one file by one clock, so that a step is seen from gateway to worker, with
// the gaps in it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace moepool {

namespace trace_internal {
inline std::atomic<bool> enabled = false;
}

// While it is off, a span costs this load.
inline bool TraceEnabled() { return trace_internal::enabled.load(std::memory_order_relaxed); }

// CLOCK_MONOTONIC, which all processes of a host share.
int64_t TraceNowNs();

struct TraceOptions {
  std::string path;     // added to where it exists
  std::string process;  // "router"
  absl::Duration flush_interval = absl::Milliseconds(50);
  // Of a thread, between two flushes; those beyond are left out and counted in an event "events left out".
  uint32_t ring_events = 32768;  // 3 MiB
  // Of the file, from all processes. The session ends where it would grow beyond, or cannot be written; the
  // file then holds whole lines.
  uint64_t max_file_bytes = uint64_t{1} << 30;
  // Told at such an end, once, by a thread of the session's or the one that flushes. May be null.
  std::function<void(const absl::Status& cause)> on_end = nullptr;
};

// The process records while one lives: one at a time. What was recorded is on disk once it is destroyed.
class TraceSession {
 public:
  // Null where the path is empty. Unavailable names the path. FailedPrecondition where there is one already.
  static absl::StatusOr<std::unique_ptr<TraceSession>> Start(const TraceOptions& options);
  virtual ~TraceSession() = default;
  // Writes what has been recorded until now. Thread-safe.
  virtual void Flush() = 0;
};

// `key` is a literal; none where it is null.
struct TraceArg {
  const char* key = nullptr;
  int64_t value = 0;
};

// From construction to destruction, on one thread. Spans of a thread nest. `name` is a literal.
class TraceSpan {
 public:
  explicit TraceSpan(const char* name, TraceArg a = {}, TraceArg b = {}, TraceArg c = {}) {
    if (!TraceEnabled()) return;
    name_ = name;
    args_ = {a, b, c};
    begin_ns_ = TraceNowNs();
  }
  ~TraceSpan() { End(); }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

  void End() {
    if (name_ == nullptr) return;
    Record();
    name_ = nullptr;
  }

 private:
  void Record() const;

  const char* name_ = nullptr;
  int64_t begin_ns_ = 0;
  std::array<TraceArg, 3> args_;
};

// An arrow from the span that sends to the span that receives, of whatever thread or process: both are open
// at the time of the call, and give the same name and id.
void TraceFlowBegin(const char* name, uint64_t id);
void TraceFlowEnd(const char* name, uint64_t id);

// Something that begins on one thread and ends on another; `name` and `id` are unique in
// the process while it lasts.
void TraceAsyncBegin(const char* name, uint64_t id, TraceArg a = {});
void TraceAsyncEnd(const char* name, uint64_t id, TraceArg a = {});

// What the calling thread is called in the file, from now on. `name` is a literal.
void NameTraceThread(const char* name);

}  // namespace moepool
