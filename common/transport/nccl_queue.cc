#include "common/transport/nccl_queue.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/awake_wait.h"
#include "common/base/status_macros.h"
#include "common/transport/reply_inbox.h"
#include "common/transport/unshared_status.h"

namespace moepool {
namespace {

constexpr std::chrono::milliseconds kConnectTurn(1);
// Between two looks at a transfer that takes longer than one stays awake.
constexpr absl::Duration kPollTurn = absl::Microseconds(500);

struct Greeting {
  char magic[12] = {'m', 'o', 'e', 'p', 'o', 'o', 'l', ' ', 'r', 'a', 'n', 'k'};
  int32_t rank = 0;
};

struct Transfer {
  bool send = false;
  NcclBytes of;
  NcclPair::Done done;
};

}  // namespace

struct NcclPair::State {
  // Set by Connect, constant until the reaper's turn.
  NcclComm* comm = nullptr;
  std::unique_ptr<NcclStream> stream;
  int peer = 0;

  // Of the queue's mutex.
  bool started = false;  // otherwise a loss waits for it
  std::function<void(const absl::Status&)> lost;
  std::deque<Transfer> waiting;
  absl::Status loss;

  // Of the queue's thread; of the reaper after it.
  Transfer current;
  absl::Time stalls;
};

NcclPair::~NcclPair() {
  Close(absl::UnavailableError("the pair was let go"));
  MutexLock lock(&queue_->mutex_);
  state_->started = true;
  queue_->changed_.NotifyAll();
}

void NcclPair::Start(std::function<void(const absl::Status&)> lost) {
  MutexLock lock(&queue_->mutex_);
  state_->started = true;
  state_->lost = std::move(lost);
  queue_->changed_.NotifyAll();
}

void NcclPair::Send(NcclBytes bytes, Done done) {
  MutexLock lock(&queue_->mutex_);
  if (!state_->loss.ok()) return;
  state_->waiting.push_back({true, std::move(bytes), std::move(done)});
  queue_->changed_.NotifyAll();
}

void NcclPair::Receive(NcclBytes bytes, Done done) {
  MutexLock lock(&queue_->mutex_);
  if (!state_->loss.ok()) return;
  state_->waiting.push_back({false, std::move(bytes), std::move(done)});
  queue_->changed_.NotifyAll();
}

void NcclPair::Close(const absl::Status& cause) {
  MutexLock lock(&queue_->mutex_);
  if (state_->loss.ok()) state_->loss = UnsharedStatus(cause);
  queue_->changed_.NotifyAll();
}

NcclQueue::NcclQueue(std::unique_ptr<NcclApi> api, std::shared_ptr<NcclDevice> device,
                     const NcclQueueOptions& options)
    : api_(std::move(api)), device_(std::move(device)), options_(options), staging_(device_) {
  reaper_ = std::thread([this] { Reap(); });
  thread_ = std::thread([this] { Run(); });
}

std::shared_ptr<NcclQueue> NcclQueue::Create(std::unique_ptr<NcclApi> api, std::shared_ptr<NcclDevice> device,
                                             const NcclQueueOptions& options) {
  return std::shared_ptr<NcclQueue>(
      new NcclQueue(std::move(api), std::move(device), options), [](NcclQueue* queue) {
        const std::thread::id self = std::this_thread::get_id();
        if (self != queue->thread_.get_id() && self != queue->reaper_.get_id()) {
          delete queue;
        } else {
          std::thread([queue] { delete queue; }).detach();
        }
      });
}

NcclQueue::~NcclQueue() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    for (const auto& pair : pairs_) {
      if (pair->loss.ok()) pair->loss = absl::UnavailableError("the process is ending");
      pair->started = true;
    }
    changed_.NotifyAll();
  }
  thread_.join();
  {
    MutexLock lock(&reaper_mutex_);
    reaper_stop_ = true;
    reaper_changed_.NotifyAll();
  }
  reaper_.join();
}

absl::Status NcclQueue::Error(NcclResult result, const char* what) const {
  return absl::UnavailableError(absl::StrCat("NCCL, ", what, ": ", api_->Describe(result)));
}

absl::Status NcclQueue::Ready(const State& pair, bool* ready) const {
  NcclResult state = NcclResult::kSuccess;
  const NcclResult asked = api_->CommGetAsyncError(pair.comm, &state);
  *ready = asked == NcclResult::kSuccess && state == NcclResult::kSuccess;
  if (asked != NcclResult::kSuccess) return Error(asked, "ncclCommGetAsyncError");
  return *ready || state == NcclResult::kInProgress ? absl::OkStatus() : Error(state, "communicator");
}

absl::StatusOr<std::unique_ptr<NcclPair>> NcclQueue::Connect(const NcclId& id, int rank, absl::Time deadline,
                                                             const std::function<absl::Status()>& check) {
  MOEPOOL_RETURN_IF_ERROR(device_->Bind());
  auto state = std::make_shared<State>();
  state->peer = 1 - rank;
  MOEPOOL_ASSIGN_OR_RETURN(state->stream, device_->NewStream());
  const auto in_time = [&] {
    if (absl::Now() >= deadline)
      return absl::DeadlineExceededError("NCCL: the communicator was not ready in time");
    return check();
  };
  absl::Status status = Join(state.get(), id, rank, in_time);
  if (status.ok()) status = Greet(state.get(), rank, in_time);
  if (!status.ok()) {
    Retire(std::move(state));
    return status;
  }
  MutexLock lock(&mutex_);
  pairs_.push_back(state);
  return std::unique_ptr<NcclPair>(new NcclPair(this, std::move(state)));
}

absl::Status NcclQueue::Join(State* pair, const NcclId& id, int rank,
                             const std::function<absl::Status()>& check) {
  const NcclResult begun = api_->CommInit(&pair->comm, id, rank);
  if (begun != NcclResult::kSuccess && begun != NcclResult::kInProgress) {
    return Error(begun, "ncclCommInitRankConfig");
  }
  for (bool ready = false;;) {
    MOEPOOL_RETURN_IF_ERROR(Ready(*pair, &ready));
    if (ready) return absl::OkStatus();
    MOEPOOL_RETURN_IF_ERROR(check());
    std::this_thread::sleep_for(kConnectTurn);
  }
}

// The first transfer in each direction also makes NCCL's connections, which takes the peer's part: it has a
// group to itself.
absl::Status NcclQueue::Greet(State* pair, int rank, const std::function<absl::Status()>& check) {
  std::shared_ptr<const NcclBuffer> out;
  std::shared_ptr<const NcclBuffer> in;
  MOEPOOL_ASSIGN_OR_RETURN(out, staging_.Take(sizeof(Greeting)));
  MOEPOOL_ASSIGN_OR_RETURN(in, staging_.Take(sizeof(Greeting)));
  // Theirs until the communicator is aborted.
  pair->waiting.push_back({true, {out, sizeof(Greeting)}, nullptr});
  pair->waiting.push_back({false, {in, sizeof(Greeting)}, nullptr});
  Greeting greeting;
  greeting.rank = rank;
  std::memcpy(out->host, &greeting, sizeof(greeting));
  MOEPOOL_RETURN_IF_ERROR(pair->stream->Copy(out->device, out->host, sizeof(greeting)));

  NcclResult result = api_->GroupStart();
  if (result != NcclResult::kSuccess) return Error(result, "ncclGroupStart");
  void* const stream = pair->stream->handle();
  const NcclResult sent = api_->Send(out->device, sizeof(greeting), pair->peer, pair->comm, stream);
  const NcclResult received = api_->Recv(in->device, sizeof(greeting), pair->peer, pair->comm, stream);
  result = api_->GroupEnd();
  for (const NcclResult each : {sent, received, result}) {
    if (each != NcclResult::kSuccess && each != NcclResult::kInProgress) return Error(each, "greeting");
  }
  for (bool ready = false;;) {
    MOEPOOL_RETURN_IF_ERROR(Ready(*pair, &ready));
    if (ready) break;
    MOEPOOL_RETURN_IF_ERROR(check());
    std::this_thread::sleep_for(kConnectTurn);
  }
  MOEPOOL_RETURN_IF_ERROR(pair->stream->Copy(in->host, in->device, sizeof(greeting)));
  MOEPOOL_RETURN_IF_ERROR(pair->stream->Mark());
  for (bool ready = false;;) {
    MOEPOOL_ASSIGN_OR_RETURN(const bool reached, pair->stream->Reached());
    if (reached) break;
    MOEPOOL_RETURN_IF_ERROR(Ready(*pair, &ready));
    MOEPOOL_RETURN_IF_ERROR(check());
    std::this_thread::sleep_for(kConnectTurn);
  }
  Greeting theirs;
  std::memcpy(&theirs, in->host, sizeof(theirs));
  greeting.rank = pair->peer;
  if (std::memcmp(&theirs, &greeting, sizeof(greeting)) != 0) {
    return absl::DataLossError(absl::StrCat("NCCL carried another greeting than that of rank ", pair->peer));
  }
  pair->waiting.clear();
  return absl::OkStatus();
}

void NcclQueue::Run() {
  device_->Bind().IgnoreError();  // what depends on it says so
  AwakeWait wait;
  bool awake = true;
  for (;;) {
    std::vector<std::shared_ptr<State>> group = NextGroup();
    const bool begins = !group.empty();
    if (begins) Launch(std::move(group));
    if (Poll() || begins) {
      wait = AwakeWait();
      awake = true;
      continue;
    }
    if (!flying_.empty() && awake && (awake = wait.Turn())) continue;
    MutexLock lock(&mutex_);
    const auto due = [this]() REQUIRES(mutex_) {
      return std::any_of(pairs_.begin(), pairs_.end(), [this](const std::shared_ptr<State>& pair) {
        if (!pair->loss.ok()) return pair->started;
        return !pair->waiting.empty() && std::find(flying_.begin(), flying_.end(), pair) == flying_.end();
      });
    };
    if (due()) continue;
    if (!flying_.empty()) {
      WaitUntil(&changed_, &mutex_, absl::Now() + kPollTurn);
      continue;
    }
    if (stop_) return;
    changed_.Wait(&mutex_);
    wait = AwakeWait();
    awake = true;
  }
}

std::vector<std::shared_ptr<NcclPair::State>> NcclQueue::NextGroup() {
  std::vector<std::shared_ptr<State>> group;
  std::vector<std::shared_ptr<State>> lost;
  {
    MutexLock lock(&mutex_);
    for (const auto& pair : pairs_) {
      if (!pair->loss.ok()) {
        if (pair->started) lost.push_back(pair);
      } else if (!pair->waiting.empty() && std::find(flying_.begin(), flying_.end(), pair) == flying_.end()) {
        pair->current = std::move(pair->waiting.front());
        pair->waiting.pop_front();
        group.push_back(pair);
      }
    }
    std::erase_if(pairs_,
                  [](const std::shared_ptr<State>& pair) { return !pair->loss.ok() && pair->started; });
  }
  for (std::shared_ptr<State>& pair : lost) {
    std::erase(flying_, pair);
    // Nobody changes either any more.
    const std::function<void(const absl::Status&)> tell = std::move(pair->lost);
    const absl::Status cause = UnsharedStatus(pair->loss);
    Retire(std::move(pair));
    if (tell != nullptr) tell(cause);
  }
  return group;
}

void NcclQueue::Launch(std::vector<std::shared_ptr<State>> group) {
  std::erase_if(group, [this](const std::shared_ptr<State>& pair) {
    bool ready = false;
    absl::Status status = Ready(*pair, &ready);
    if (status.ok() && !ready) status = absl::InternalError("NCCL: a communicator is busy with no transfer");
    const NcclBytes& of = pair->current.of;
    if (status.ok() && pair->current.send && of.host != nullptr) {
      status = pair->stream->Copy(of.device, of.host, of.bytes);
    }
    if (!status.ok()) Lose(pair.get(), status);
    return !status.ok();
  });
  if (group.empty()) return;

  NcclResult whole = api_->GroupStart();
  if (whole == NcclResult::kSuccess) {
    for (const auto& pair : group) {
      const auto& [send, of, done] = pair->current;
      void* const stream = pair->stream->handle();
      const NcclResult result = send ? api_->Send(of.device, of.bytes, pair->peer, pair->comm, stream)
                                     : api_->Recv(of.device, of.bytes, pair->peer, pair->comm, stream);
      if (result != NcclResult::kSuccess && result != NcclResult::kInProgress) {
        Lose(pair.get(), Error(result, send ? "ncclSend" : "ncclRecv"));
      }
    }
    whole = api_->GroupEnd();
  }
  const bool failed = whole != NcclResult::kSuccess && whole != NcclResult::kInProgress;
  const absl::Time limit = absl::Now() + options_.stall_limit;
  // Nothing is aborted before the group has begun: NCCL would abort all of it.
  for (const auto& pair : group) {
    bool ready = false;
    absl::Status status = failed ? Error(whole, "group") : Ready(*pair, &ready);
    for (AwakeWait wait; status.ok() && !ready;) {
      if (absl::Now() > limit) {
        status = absl::DeadlineExceededError("NCCL did not begin a transfer in time");
      } else {
        if (!wait.Turn()) std::this_thread::sleep_for(kConnectTurn);
        status = Ready(*pair, &ready);
      }
    }
    const NcclBytes& of = pair->current.of;
    if (status.ok() && !pair->current.send && of.host != nullptr) {
      status = pair->stream->Copy(of.host, of.device, of.bytes);
    }
    if (status.ok()) status = pair->stream->Mark();
    pair->stalls = absl::Now() + options_.stall_limit +
                   absl::Seconds(static_cast<double>(of.bytes) / options_.slowest_bytes_per_second);
    if (!status.ok()) Lose(pair.get(), status);
    flying_.push_back(pair);
  }
}

bool NcclQueue::Poll() {
  bool any = false;
  for (size_t i = 0; i < flying_.size();) {
    const std::shared_ptr<State> pair = flying_[i];
    const absl::StatusOr<bool> reached = pair->stream->Reached();
    bool ready = false;
    absl::Status status = reached.status();
    if (status.ok() && !*reached) status = Ready(*pair, &ready);
    if (status.ok() && !*reached && absl::Now() > pair->stalls) {
      status = absl::UnavailableError(
          absl::StrCat("NCCL: a transfer of ", pair->current.of.bytes, " bytes did not end in time"));
    }
    if (!status.ok()) {
      Lose(pair.get(), status);
    } else if (*reached) {
      bool lost = false;
      {
        MutexLock lock(&mutex_);
        lost = !pair->loss.ok();
      }
      const Transfer ended = std::move(pair->current);
      flying_.erase(flying_.begin() + static_cast<std::ptrdiff_t>(i));
      if (!lost && ended.done != nullptr) ended.done();
      any = true;
      continue;
    }
    ++i;
  }
  return any;
}

void NcclQueue::Lose(State* pair, const absl::Status& cause) {
  MutexLock lock(&mutex_);
  if (pair->loss.ok()) pair->loss = cause;
}

void NcclQueue::Retire(std::shared_ptr<State> pair) {
  MutexLock lock(&reaper_mutex_);
  dead_.push_back(std::move(pair));
  reaper_changed_.NotifyAll();
}

// Aborts may take a while, which other pairs are not to wait for. Buffers are free only after it.
void NcclQueue::Reap() {
  device_->Bind().IgnoreError();
  for (;;) {
    std::shared_ptr<State> pair;
    {
      MutexLock lock(&reaper_mutex_);
      while (dead_.empty() && !reaper_stop_) reaper_changed_.Wait(&reaper_mutex_);
      if (dead_.empty()) return;
      pair = std::move(dead_.front());
      dead_.pop_front();
    }
    if (pair->comm != nullptr) api_->CommAbort(pair->comm);  // there is nothing to do about an error
    pair->stream = nullptr;
    pair->current = {};
    pair->waiting.clear();
  }
}

}  // namespace moepool
