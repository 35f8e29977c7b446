// See trace.h. Each thread that records has a ring of its own, which only it fills and only the writer
// empties.
#include "common/base/trace.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr size_t kWriteBytes = 256 * 1024;  // at once

struct Event {
  char phase = 'X';
  const char* name = nullptr;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;  // of a span
  uint64_t id = 0;     // of a flow or an asynchronous span
  std::array<TraceArg, 3> args;
};

class Ring {
 public:
  Ring(uint32_t size, uint64_t session) : session(session), events_(size) {}

  void Push(const Event& event) {
    const uint64_t head = head_.load(std::memory_order_relaxed);
    if (head - tail_.load(std::memory_order_acquire) >= events_.size()) {
      left_out_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    events_[head % events_.size()] = event;
    head_.store(head + 1, std::memory_order_release);
  }
  template <typename Visit>
  void Drain(const Visit& visit) {
    const uint64_t head = head_.load(std::memory_order_acquire);
    uint64_t tail = tail_.load(std::memory_order_relaxed);
    for (; tail != head; ++tail) visit(events_[tail % events_.size()]);
    tail_.store(tail, std::memory_order_release);
  }
  uint64_t TakeLeftOut() { return left_out_.exchange(0, std::memory_order_relaxed); }

  const uint64_t session;
  const pid_t thread = static_cast<pid_t>(syscall(SYS_gettid));
  std::atomic<const char*> thread_name = nullptr;

 private:
  std::vector<Event> events_;
  std::atomic<uint64_t> head_ = 0;
  std::atomic<uint64_t> tail_ = 0;
  std::atomic<uint64_t> left_out_ = 0;
};

// The rings of the session, found by threads when they first record in it.
struct Registry {
  Mutex mutex;
  uint64_t session GUARDED_BY(mutex) = 0;  // 0: none
  uint64_t sessions GUARDED_BY(mutex) = 0;
  uint32_t ring_events GUARDED_BY(mutex) = 0;
  std::vector<std::shared_ptr<Ring>> rings GUARDED_BY(mutex);
};
Registry& TheRegistry() {
  static auto* const registry = new Registry;  // threads may record until the process ends
  return *registry;
}
// Of the session under way, for a look without the lock.
std::atomic<uint64_t> current_session = 0;

thread_local std::shared_ptr<Ring> own_ring;

// Null where the session has just ended.
Ring* OwnRing() {
  const uint64_t current = current_session.load(std::memory_order_acquire);
  if (own_ring != nullptr && own_ring->session == current) return own_ring.get();
  Registry& registry = TheRegistry();
  MutexLock lock(&registry.mutex);
  if (registry.session == 0) return nullptr;
  own_ring = std::make_shared<Ring>(registry.ring_events, registry.session);
  registry.rings.push_back(own_ring);
  return own_ring.get();
}

void Push(const Event& event) {
  if (Ring* const ring = OwnRing(); ring != nullptr) ring->Push(event);
}

template <typename... Values>
void Append(std::string* out, const char* format, Values... values) {
  char text[256];
  const int length = std::snprintf(text, sizeof(text), format, values...);
  out->append(text, std::min(static_cast<size_t>(std::max(length, 0)), sizeof(text) - 1));
}

// Nanoseconds as the format's microseconds, exactly.
void AppendMicroseconds(std::string* out, const char* key, int64_t ns) {
  Append(out, ",\"%s\":%" PRId64 ".%03d", key, ns / 1000, static_cast<int>(ns % 1000));
}

void AppendEvent(std::string* out, const Event& event, pid_t process, pid_t thread) {
  Append(out, "{\"ph\":\"%c\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d", event.phase, event.name, process,
         thread);
  AppendMicroseconds(out, "ts", event.begin_ns);
  switch (event.phase) {
    case 'X':
      AppendMicroseconds(out, "dur", event.end_ns - event.begin_ns);
      break;
    case 's':
    case 'f':  // the same id in any process is the same flow
      Append(out, ",\"cat\":\"flow\",\"id\":\"0x%" PRIx64 "\"", event.id);
      if (event.phase == 'f') out->append(",\"bp\":\"e\"");  // to the span around it, not to the next one
      break;
    case 'b':
    case 'e':
      Append(out, ",\"cat\":\"async\",\"id2\":{\"local\":\"0x%" PRIx64 "\"}", event.id);
      break;
  }
  out->append(",\"args\":{");
  bool first = true;
  for (const TraceArg& arg : event.args) {
    if (arg.key == nullptr) continue;
    Append(out, "%s\"%s\":%" PRId64, first ? "" : ",", arg.key, arg.value);
    first = false;
  }
  out->append("}},\n");
}

absl::Status FileError(const std::string& path, const char* what) {
  return absl::UnavailableError(StrCat("trace ", path, ": cannot ", what, ": ", std::strerror(errno)));
}

// Held while the file is written, so that processes do not write in the midst of each other's lines.
class FileLock {
 public:
  explicit FileLock(int fd) : fd_(fd) {
    while ((held_ = flock(fd_, LOCK_EX) == 0), !held_ && errno == EINTR) {
    }
  }
  ~FileLock() {
    if (held_) flock(fd_, LOCK_UN);
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  bool held() const { return held_; }

 private:
  const int fd_;
  bool held_ = false;
};

// Appends whole lines, or nothing: what could be written only in part is taken back. ResourceExhausted where
// the file would grow beyond `limit_bytes`.
absl::Status AppendLines(int fd, const std::string& path, std::string* lines, uint64_t limit_bytes) {
  const FileLock lock(fd);
  if (!lock.held()) return FileError(path, "be locked");
  struct stat file;
  if (fstat(fd, &file) != 0) return FileError(path, "be read");
  const auto size = static_cast<uint64_t>(file.st_size);
  if (size == 0) lines->insert(0, "[\n");
  if (size + lines->size() > limit_bytes) {
    return absl::ResourceExhaustedError(
        StrCat("trace ", path, ": has ", size, " bytes, limit ", limit_bytes));
  }
  size_t done = 0;
  while (done < lines->size()) {
    const ssize_t written = write(fd, lines->data() + done, lines->size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const absl::Status status = FileError(path, "be written");
      return ftruncate(fd, file.st_size) == 0 ? status : FileError(path, "be cut to whole lines");
    }
    done += static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

class Session final : public TraceSession {
 public:
  Session(int fd, const TraceOptions& options) : fd_(fd), options_(options) {}

  ~Session() override {
    trace_internal::enabled = false;
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
      changed_.NotifyAll();
    }
    writer_.join();
    Flush();
    Registry& registry = TheRegistry();
    MutexLock lock(&registry.mutex);
    registry.session = 0;
    current_session = 0;
    registry.rings.clear();
    close(fd_);
  }

  void Begin() {
    {
      MutexLock lock(&write_mutex_);
      Append(&text_, "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":\"%s\"}},\n",
             process_, options_.process.c_str());
      WriteText();
      trace_internal::enabled = !ended_;
    }
    writer_ = std::thread([this] { Loop(); });
  }

  void Flush() override {
    MutexLock lock(&write_mutex_);
    std::vector<std::shared_ptr<Ring>> rings;
    {
      Registry& registry = TheRegistry();
      MutexLock registry_lock(&registry.mutex);
      rings = registry.rings;
      // A ring whose thread has ended is empty after this, and kept alive by `rings` alone.
      std::erase_if(registry.rings, [](const std::shared_ptr<Ring>& ring) { return ring.use_count() == 2; });
    }
    for (const std::shared_ptr<Ring>& ring : rings) {
      if (const char* const name = ring->thread_name.exchange(nullptr); name != nullptr) {
        Append(&text_,
               "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"%s\"}},\n",
               process_, ring->thread, name);
      }
      // The lock is held; clang's analysis does not look out of a lambda.
      ring->Drain([&](const Event& event) NO_THREAD_SAFETY_ANALYSIS {
        AppendEvent(&text_, event, process_, ring->thread);
        if (text_.size() > kWriteBytes) WriteText();
      });
      if (const uint64_t left_out = ring->TakeLeftOut(); left_out > 0) {
        Event event;
        event.phase = 'i';
        event.name = "events left out";
        event.begin_ns = TraceNowNs();
        event.args[0] = {"events", static_cast<int64_t>(left_out)};
        AppendEvent(&text_, event, process_, ring->thread);
      }
    }
    WriteText();
  }

 private:
  void Loop() {
    MutexLock lock(&mutex_);
    while (!stopping_) {
      if (options_.flush_interval == absl::InfiniteDuration()) {
        changed_.Wait(&mutex_);
        continue;
      }
      changed_.WaitFor(&mutex_, absl::ToChronoNanoseconds(options_.flush_interval));
      mutex_.Unlock();
      Flush();
      mutex_.Lock();
    }
  }

  // A trace that cannot be written any more must not stop the process: the rest is lost.
  void WriteText() REQUIRES(write_mutex_) {
    if (!ended_ && !text_.empty()) {
      const absl::Status status = AppendLines(fd_, options_.path, &text_, options_.max_file_bytes);
      if (!status.ok()) {
        ended_ = true;
        trace_internal::enabled = false;
        if (options_.on_end) options_.on_end(status);
      }
    }
    text_.clear();
  }

  const int fd_;
  const TraceOptions options_;
  const pid_t process_ = getpid();
  Mutex write_mutex_;  // before the registry's
  std::string text_ GUARDED_BY(write_mutex_);
  bool ended_ GUARDED_BY(write_mutex_) = false;  // for good
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread writer_;
};

}  // namespace

int64_t TraceNowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

absl::StatusOr<std::unique_ptr<TraceSession>> TraceSession::Start(const TraceOptions& options) {
  if (options.path.empty()) return nullptr;
  const int fd = open(options.path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return FileError(options.path, "be opened");
  {
    Registry& registry = TheRegistry();
    MutexLock lock(&registry.mutex);
    if (registry.session != 0) {
      close(fd);
      return absl::FailedPreconditionError(
          StrCat("trace ", options.path, ": this process writes one already"));
    }
    registry.session = ++registry.sessions;
    registry.ring_events = std::max<uint32_t>(options.ring_events, 1);
    current_session = registry.session;
  }
  auto session = std::make_unique<Session>(fd, options);
  session->Begin();
  return session;
}

void TraceSpan::Record() const {
  Event event;
  event.name = name_;
  event.begin_ns = begin_ns_;
  event.end_ns = TraceNowNs();
  event.args = args_;
  Push(event);
}

namespace {

void RecordPoint(char phase, const char* name, uint64_t id, TraceArg a) {
  if (!TraceEnabled()) return;
  Event event;
  event.phase = phase;
  event.name = name;
  event.begin_ns = TraceNowNs();
  event.id = id;
  event.args[0] = a;
  Push(event);
}

}  // namespace

void TraceFlowBegin(const char* name, uint64_t id) { RecordPoint('s', name, id, {}); }
void TraceFlowEnd(const char* name, uint64_t id) { RecordPoint('f', name, id, {}); }
void TraceAsyncBegin(const char* name, uint64_t id, TraceArg a) { RecordPoint('b', name, id, a); }
void TraceAsyncEnd(const char* name, uint64_t id, TraceArg a) { RecordPoint('e', name, id, a); }

void NameTraceThread(const char* name) {
  if (!TraceEnabled()) return;
  if (Ring* const ring = OwnRing(); ring != nullptr) ring->thread_name = name;
}

}  // namespace moepool
