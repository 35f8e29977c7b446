#include "tests/support/nccl/nccl_stand_in.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"

namespace moepool {
namespace {

constexpr int kBusyPolls = 2;
constexpr uint8_t kJunk = 0xDB;

struct Comm;

struct Transfer {
  Comm* comm = nullptr;
  bool send = false;
  uint8_t* memory = nullptr;
  size_t bytes = 0;
  bool done = false;
};

// One entry of a stream: a copy, a mark, or the transfers of one communicator in one group, which move at
// once.
struct Work {
  enum Kind { kCopy, kMark, kTransfers } kind = kMark;
  uint8_t* to = nullptr;
  const uint8_t* from = nullptr;
  size_t bytes = 0;
  uint64_t mark = 0;
  std::vector<std::shared_ptr<Transfer>> transfers;
};

struct Stream {
  int process = 0;
  std::deque<Work> work;
  uint64_t marked = 0;
  uint64_t reached = 0;
};

// A group that was ended and has not begun.
struct Job {
  std::map<Comm*, std::vector<std::shared_ptr<Transfer>>> transfers;
  std::map<Comm*, Stream*> streams;
  int polls = 0;
};

struct Comm {
  int process = 0;
  uint64_t id = 0;
  int rank = 0;
  Comm* peer = nullptr;  // once it has joined, until it is aborted
  int polls = 0;         // since it could be ready
  bool ready = false;
  bool connecting = false;  // its first group has been ended
  bool connected = false;
  NcclResult error = NcclResult::kSuccess;
  std::shared_ptr<Job> job;
  std::deque<std::shared_ptr<Transfer>> active;  // at the head of their stream
};

}  // namespace

struct NcclWorld::Core {
  struct ProcessState {
    bool dead = false;
    bool told = true;
    bool cut = false;
    int largest_group = 0;
    std::map<NcclCall, int> calls;
    std::map<NcclCall, std::pair<int, NcclResult>> failures;
    NcclCall dies_in = NcclCall::kSend;
    int dies_at = 0;  // 0: never
    std::function<void()> on_death;
  };

  Mutex mutex;
  bool holds_joins GUARDED_BY(mutex) = false;
  uint64_t next_id GUARDED_BY(mutex) = 1;
  std::vector<ProcessState> processes GUARDED_BY(mutex);
  std::vector<std::unique_ptr<Comm>> joined GUARDED_BY(mutex);  // ever, so that no address is used twice
  std::set<Comm*> comms GUARDED_BY(mutex);                      // that were not aborted
  std::set<Stream*> streams GUARDED_BY(mutex);
  std::map<const uint8_t*, std::pair<size_t, int>> memory GUARDED_BY(mutex);  // begin: bytes, process
  std::vector<std::string> violations GUARDED_BY(mutex);

  void Violation(std::string what) REQUIRES(mutex) { violations.push_back(std::move(what)); }

  // kSuccess where the call is to go on.
  NcclResult Enter(int number, NcclCall call, std::function<void()>* on_death) REQUIRES(mutex) {
    ProcessState& process = processes[static_cast<size_t>(number)];
    if (process.dead) return NcclResult::kSystemError;
    const int nth = ++process.calls[call];
    if (process.dies_at == nth && process.dies_in == call) {
      process.dead = true;
      *on_death = std::move(process.on_death);
      for (Comm* comm : comms) {
        if (comm->process != number || !process.told || comm->peer == nullptr) continue;
        Fail(comm->peer, NcclResult::kRemoteError);
      }
      return NcclResult::kSystemError;
    }
    const auto failure = process.failures.find(call);
    if (failure != process.failures.end() && failure->second.first == nth) return failure->second.second;
    return NcclResult::kSuccess;
  }

  void Fail(Comm* comm, NcclResult error) REQUIRES(mutex) {
    if (comm->error == NcclResult::kSuccess) comm->error = error;
    if (comm->job != nullptr) FailJob(*std::exchange(comm->job, nullptr), error);
  }

  void FailJob(const Job& job, NcclResult error) REQUIRES(mutex) {
    for (const auto& [comm, transfers] : job.transfers) {
      if (!comms.contains(comm)) continue;
      if (comm->error == NcclResult::kSuccess) comm->error = error;
      comm->job = nullptr;
    }
  }

  bool Alive(const Comm* comm) REQUIRES(mutex) {
    return comms.contains(const_cast<Comm*>(comm)) && !processes[static_cast<size_t>(comm->process)].dead;
  }

  NcclResult State(Comm* comm) REQUIRES(mutex) {
    if (comm->error != NcclResult::kSuccess) return comm->error;
    if (!comm->ready) {
      if (holds_joins || comm->peer == nullptr || !Alive(comm->peer)) return NcclResult::kInProgress;
      if (++comm->polls <= kBusyPolls) return NcclResult::kInProgress;
      comm->ready = true;
    }
    if (comm->job != nullptr) Begin(comm->job);
    if (comm->error != NcclResult::kSuccess) return comm->error;
    return comm->job == nullptr ? NcclResult::kSuccess : NcclResult::kInProgress;
  }

  void Begin(std::shared_ptr<Job> job) REQUIRES(mutex) {
    if (++job->polls <= kBusyPolls) return;
    for (const auto& [comm, transfers] : job->transfers) {
      if (comm->connected) continue;
      comm->connecting = true;
      if (comm->peer == nullptr) return FailJob(*job, NcclResult::kRemoteError);
      if (!Alive(comm->peer)) {
        if (processes[static_cast<size_t>(comm->peer->process)].told) FailJob(*job, NcclResult::kRemoteError);
        return;
      }
      if (!comm->peer->connecting) return;
    }
    for (auto& [comm, transfers] : job->transfers) {
      comm->connected = true;
      comm->job = nullptr;
      Work work;
      work.kind = Work::kTransfers;
      work.transfers = transfers;
      job->streams[comm]->work.push_back(std::move(work));
    }
  }

  void Progress() REQUIRES(mutex) {
    for (bool moved = true; moved;) {
      moved = false;
      for (Stream* stream : streams) {
        if (!processes[static_cast<size_t>(stream->process)].dead && Step(stream)) moved = true;
      }
    }
  }

  bool Step(Stream* stream) REQUIRES(mutex) {
    if (stream->work.empty()) return false;
    Work& work = stream->work.front();
    switch (work.kind) {
      case Work::kCopy:
        std::memcpy(work.to, work.from, work.bytes);
        break;
      case Work::kMark:
        stream->reached = work.mark;
        break;
      case Work::kTransfers: {
        bool moved = false;
        bool all = true;
        for (const auto& transfer : work.transfers) {
          if (transfer->done) continue;
          Comm* comm = transfer->comm;
          if (!comms.contains(comm)) {  // aborted
            transfer->done = true;
            continue;
          }
          if (std::find(comm->active.begin(), comm->active.end(), transfer) == comm->active.end()) {
            comm->active.push_back(transfer);
            moved = true;
          }
          if (Match(transfer.get())) moved = true;
          all = all && transfer->done;
        }
        if (!all) return moved;
      }
    }
    stream->work.pop_front();
    return true;
  }

  // With the first unlike transfer of the peer.
  bool Match(Transfer* mine) REQUIRES(mutex) {
    Comm* comm = mine->comm;
    if (comm->peer == nullptr || comm->error != NcclResult::kSuccess || !Alive(comm->peer)) return false;
    const auto first = [](Comm* of, bool send) {
      return std::find_if(of->active.begin(), of->active.end(),
                          [send](const auto& transfer) { return transfer->send == send; });
    };
    const auto own = first(comm, mine->send);
    const auto theirs = first(comm->peer, !mine->send);
    if (own == comm->active.end() || own->get() != mine || theirs == comm->peer->active.end()) return false;
    Transfer* from = mine->send ? mine : theirs->get();
    Transfer* to = mine->send ? theirs->get() : mine;
    if (from->bytes != to->bytes) return false;
    std::memcpy(to->memory, from->memory, from->bytes);
    from->done = to->done = true;
    comm->active.erase(own);
    comm->peer->active.erase(theirs);
    return true;
  }

  bool Uses(const Stream& stream, const uint8_t* begin, size_t bytes) REQUIRES(mutex) {
    const auto inside = [&](const uint8_t* p) { return p >= begin && p < begin + bytes; };
    for (const Work& work : stream.work) {
      if (work.kind == Work::kCopy && (inside(work.to) || inside(work.from))) return true;
      for (const auto& transfer : work.transfers) {
        if (!transfer->done && comms.contains(transfer->comm) && inside(transfer->memory)) return true;
      }
    }
    return false;
  }
};

namespace {

using Core = NcclWorld::Core;

class StandInStream final : public NcclStream {
 public:
  StandInStream(std::shared_ptr<Core> core, int process) : core_(std::move(core)) {
    stream_.process = process;
    MutexLock lock(&core_->mutex);
    core_->streams.insert(&stream_);
  }
  ~StandInStream() override {
    MutexLock lock(&core_->mutex);
    core_->Progress();
    if (!stream_.work.empty() && !Dead()) core_->Violation("a stream was destroyed whose work hangs");
    core_->streams.erase(&stream_);
  }
  void* handle() override { return &stream_; }
  absl::Status Copy(void* to, const void* from, size_t bytes) override {
    Work work;
    work.kind = Work::kCopy;
    work.to = static_cast<uint8_t*>(to);
    work.from = static_cast<const uint8_t*>(from);
    work.bytes = bytes;
    return Queue(std::move(work));
  }
  absl::Status Mark() override {
    Work work;
    work.mark = ++stream_.marked;
    return Queue(std::move(work));
  }
  absl::StatusOr<bool> Reached() override {
    MutexLock lock(&core_->mutex);
    if (Dead()) return absl::UnavailableError("the device is lost");
    core_->Progress();
    return stream_.reached == stream_.marked;
  }

 private:
  bool Dead() const REQUIRES(core_->mutex) {
    return core_->processes[static_cast<size_t>(stream_.process)].dead;
  }
  absl::Status Queue(Work work) {
    MutexLock lock(&core_->mutex);
    if (Dead()) return absl::UnavailableError("the device is lost");
    stream_.work.push_back(std::move(work));
    return absl::OkStatus();
  }

  const std::shared_ptr<Core> core_;
  Stream stream_;
};

class StandInDevice final : public NcclDevice {
 public:
  StandInDevice(std::shared_ptr<Core> core, int process) : core_(std::move(core)), process_(process) {}
  absl::Status Bind() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<NcclStream>> NewStream() override {
    return std::make_unique<StandInStream>(core_, process_);
  }
  absl::StatusOr<NcclBuffer> Allocate(size_t bytes) override {
    NcclBuffer buffer{new uint8_t[bytes], new uint8_t[bytes], bytes};
    MutexLock lock(&core_->mutex);
    for (uint8_t* part : {buffer.host, buffer.device}) {
      std::memset(part, kJunk, bytes);
      core_->memory[part] = {bytes, process_};
    }
    return buffer;
  }
  void Free(const NcclBuffer& buffer) override {
    MutexLock lock(&core_->mutex);
    for (const uint8_t* part : {buffer.host, buffer.device}) {
      for (const Stream* stream : core_->streams) {
        if (!core_->processes[static_cast<size_t>(process_)].dead &&
            core_->Uses(*stream, part, buffer.bytes)) {
          core_->Violation("memory was freed that work in a stream uses");
        }
      }
      core_->memory.erase(part);
      delete[] part;
    }
  }

 private:
  const std::shared_ptr<Core> core_;
  const int process_;
};

class StandInApi final : public NcclApi {
 public:
  StandInApi(std::shared_ptr<Core> core, int process) : core_(std::move(core)), process_(process) {}

  int Version() const override { return 22809; }
  std::string Describe(NcclResult result) const override {
    return absl::StrCat("stand-in's result ", static_cast<int>(result));
  }

  NcclResult GetUniqueId(NcclId* id) override {
    return Call(NcclCall::kGetUniqueId, [&]() REQUIRES(core_->mutex) {
      std::memset(id->bytes, 0, sizeof(id->bytes));
      const uint64_t number = core_->next_id++;
      std::memcpy(id->bytes, &number, sizeof(number));
      return NcclResult::kSuccess;
    });
  }

  NcclResult CommInit(NcclComm** comm, const NcclId& id, int rank) override {
    return Call(NcclCall::kCommInit, [&]() REQUIRES(core_->mutex) {
      Comm* own = core_->joined.emplace_back(std::make_unique<Comm>()).get();
      own->process = process_;
      std::memcpy(&own->id, id.bytes, sizeof(own->id));
      own->rank = rank;
      for (Comm* other : core_->comms) {
        if (other->id != own->id) continue;
        if (other->rank == rank || other->peer != nullptr) core_->Violation("a rank joined twice");
        own->peer = other;
        other->peer = own;
      }
      core_->comms.insert(own);
      *comm = reinterpret_cast<NcclComm*>(own);
      return NcclResult::kInProgress;
    });
  }

  NcclResult CommGetAsyncError(NcclComm* comm, NcclResult* state) override {
    return Call(NcclCall::kCommGetAsyncError, [&]() REQUIRES(core_->mutex) {
      Comm* own = Known(comm);
      if (own == nullptr) return NcclResult::kInvalidArgument;
      *state = core_->State(own);
      return NcclResult::kSuccess;
    });
  }

  NcclResult GroupStart() override {
    return Call(NcclCall::kGroupStart, [&]() REQUIRES(core_->mutex) {
      if (group_ != nullptr) core_->Violation("a group within a group");
      group_ = std::make_shared<Job>();
      group_error_ = NcclResult::kSuccess;
      return NcclResult::kSuccess;
    });
  }

  NcclResult Send(const void* device, size_t bytes, int peer, NcclComm* comm, void* stream) override {
    return Add(NcclCall::kSend, true, const_cast<void*>(device), bytes, peer, comm, stream);
  }
  NcclResult Recv(void* device, size_t bytes, int peer, NcclComm* comm, void* stream) override {
    return Add(NcclCall::kRecv, false, device, bytes, peer, comm, stream);
  }

  NcclResult GroupEnd() override {
    const std::shared_ptr<Job> job = std::exchange(group_, nullptr);
    return Call(NcclCall::kGroupEnd, [&]() REQUIRES(core_->mutex) {
      if (job == nullptr) return NcclResult::kInvalidUsage;
      if (group_error_ != NcclResult::kSuccess) {
        core_->FailJob(*job, group_error_);
        return group_error_;
      }
      int& largest = core_->processes[static_cast<size_t>(process_)].largest_group;
      largest = std::max(largest, static_cast<int>(job->transfers.size()));
      for (const auto& [comm, transfers] : job->transfers) comm->job = job;
      return NcclResult::kInProgress;
    });
  }

  NcclResult CommAbort(NcclComm* comm) override {
    MutexLock lock(&core_->mutex);
    Comm* own = Known(comm);
    if (own == nullptr) return NcclResult::kInvalidArgument;
    if (own->job != nullptr) core_->FailJob(*std::exchange(own->job, nullptr), NcclResult::kInternalError);
    const bool dead = core_->processes[static_cast<size_t>(process_)].dead;
    if (own->peer != nullptr) {
      own->peer->peer = nullptr;
      if (!dead) core_->Fail(own->peer, NcclResult::kRemoteError);
    }
    core_->comms.erase(own);
    core_->Progress();  // what it had in streams is over
    return NcclResult::kSuccess;
  }

 private:
  template <typename Body>
  NcclResult Call(NcclCall call, const Body& body) {
    std::function<void()> on_death;
    NcclResult result;
    {
      MutexLock lock(&core_->mutex);
      result = core_->Enter(process_, call, &on_death);
      if (result == NcclResult::kSuccess) result = body();
    }
    if (on_death != nullptr) on_death();
    return result;
  }

  Comm* Known(NcclComm* comm) REQUIRES(core_->mutex) {
    auto* own = reinterpret_cast<Comm*>(comm);
    if (core_->comms.contains(own) && own->process == process_) return own;
    core_->Violation("a call for a communicator that is not, or no more");
    return nullptr;
  }

  NcclResult Add(NcclCall call, bool send, void* device, size_t bytes, int peer, NcclComm* comm,
                 void* stream) {
    const NcclResult result = Call(call, [&]() REQUIRES(core_->mutex) {
      Comm* own = Known(comm);
      if (own == nullptr || group_ == nullptr || peer != 1 - own->rank) return NcclResult::kInvalidArgument;
      if (!own->ready || own->job != nullptr) {
        core_->Violation("a communicator was used while it is busy");
        return NcclResult::kInvalidArgument;
      }
      if (own->error != NcclResult::kSuccess) return own->error;
      auto* memory = static_cast<uint8_t*>(device);
      auto it = core_->memory.upper_bound(memory);
      if (it == core_->memory.begin() || memory + bytes > (--it)->first + it->second.first ||
          it->second.second != process_) {
        core_->Violation("a transfer outside of memory");
        return NcclResult::kInvalidArgument;
      }
      auto transfer = std::make_shared<Transfer>();
      transfer->comm = own;
      transfer->send = send;
      transfer->memory = memory;
      transfer->bytes = bytes - (send && core_->processes[static_cast<size_t>(process_)].cut ? 1 : 0);
      group_->transfers[own].push_back(std::move(transfer));
      group_->streams[own] = static_cast<Stream*>(stream);
      return NcclResult::kSuccess;
    });
    if (result != NcclResult::kSuccess && group_error_ == NcclResult::kSuccess) group_error_ = result;
    return result;
  }

  const std::shared_ptr<Core> core_;
  const int process_;
  // Of the calling thread, as NCCL's.
  static thread_local std::shared_ptr<Job> group_;
  static thread_local NcclResult group_error_;
};

thread_local std::shared_ptr<Job> StandInApi::group_;
thread_local NcclResult StandInApi::group_error_ = NcclResult::kSuccess;

}  // namespace

NcclWorld::NcclWorld() : core_(std::make_shared<Core>()) {}
NcclWorld::~NcclWorld() = default;

std::unique_ptr<NcclWorld::Process> NcclWorld::NewProcess() {
  MutexLock lock(&core_->mutex);
  core_->processes.emplace_back();
  return std::make_unique<Process>(core_, static_cast<int>(core_->processes.size()) - 1);
}

void NcclWorld::HoldJoins() {
  MutexLock lock(&core_->mutex);
  core_->holds_joins = true;
}

std::vector<std::string> NcclWorld::Violations() const {
  MutexLock lock(&core_->mutex);
  return core_->violations;
}

int NcclWorld::Left() const {
  MutexLock lock(&core_->mutex);
  const auto live = [this](int process) REQUIRES(core_->mutex) {
    return !core_->processes[static_cast<size_t>(process)].dead;
  };
  int left = 0;
  for (const Comm* comm : core_->comms) left += live(comm->process);
  for (const auto& [begin, where] : core_->memory) left += live(where.second);
  return left;
}

std::unique_ptr<NcclApi> NcclWorld::Process::MakeApi() {
  return std::make_unique<StandInApi>(core_, number_);
}
std::shared_ptr<NcclDevice> NcclWorld::Process::MakeDevice() {
  return std::make_shared<StandInDevice>(core_, number_);
}

void NcclWorld::Process::DieAt(NcclCall call, int nth, bool told, std::function<void()> on_death) {
  MutexLock lock(&core_->mutex);
  Core::ProcessState& process = core_->processes[static_cast<size_t>(number_)];
  process.dies_in = call;
  process.dies_at = process.calls[call] + nth;
  process.told = told;
  process.on_death = std::move(on_death);
}

void NcclWorld::Process::FailAt(NcclCall call, int nth, NcclResult result) {
  MutexLock lock(&core_->mutex);
  Core::ProcessState& process = core_->processes[static_cast<size_t>(number_)];
  process.failures[call] = {process.calls[call] + nth, result};
}

void NcclWorld::Process::RaiseError(NcclResult result) {
  MutexLock lock(&core_->mutex);
  for (Comm* comm : core_->comms) {
    if (comm->process == number_) core_->Fail(comm, result);
  }
}

void NcclWorld::Process::CutSends() {
  MutexLock lock(&core_->mutex);
  core_->processes[static_cast<size_t>(number_)].cut = true;
}

int NcclWorld::Process::calls(NcclCall call) const {
  MutexLock lock(&core_->mutex);
  const auto& calls = core_->processes[static_cast<size_t>(number_)].calls;
  const auto it = calls.find(call);
  return it == calls.end() ? 0 : it->second;
}

bool NcclWorld::Process::dead() const {
  MutexLock lock(&core_->mutex);
  return core_->processes[static_cast<size_t>(number_)].dead;
}

int NcclWorld::Process::largest_group() const {
  MutexLock lock(&core_->mutex);
  return core_->processes[static_cast<size_t>(number_)].largest_group;
}

}  // namespace moepool
