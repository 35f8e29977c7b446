#include "tests/support/nccl/nccl_stand_in.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/support/nccl/nccl_world_core.h"

namespace moepool {
namespace {

using nccl_world::Comm;
using nccl_world::Job;
using nccl_world::Stream;
using nccl_world::Transfer;
using nccl_world::Work;
using Core = NcclWorld::Core;

constexpr uint8_t kJunk = 0xDB;

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
  absl::StatusOr<NcclBuffer> Allocate(size_t bytes, bool with_host) override {
    MutexLock lock(&core_->mutex);
    int& left = core_->processes[static_cast<size_t>(process_)].allocations_left;
    if (left == 0) return absl::ResourceExhaustedError(absl::StrCat("no memory left for ", bytes, " bytes"));
    if (left > 0) --left;
    NcclBuffer buffer{nullptr, nccl_world::NewMemory(bytes).release(), bytes};
    if (with_host) buffer.host = nccl_world::NewMemory(bytes).release();
    for (uint8_t* part : {buffer.host, buffer.device}) {
      if (part == nullptr) continue;
      std::memset(part, kJunk, bytes);
      core_->memory[part] = {bytes, process_};
    }
    return buffer;
  }
  void Free(const NcclBuffer& buffer) override {
    MutexLock lock(&core_->mutex);
    for (uint8_t* part : {buffer.host, buffer.device}) {
      if (part == nullptr) continue;
      nccl_world::Memory memory(part);
      core_->memory.erase(part);
      if (core_->processes[static_cast<size_t>(process_)].dead) continue;
      for (const Stream* stream : core_->streams) {
        if (memory == nullptr || !core_->Uses(*stream, part, buffer.bytes)) continue;
        core_->Violation("memory was freed that work in a stream uses");
        core_->misused.push_back(std::move(memory));
      }
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
      if (!dead) core_->Pend(own->peer, NcclResult::kRemoteError);
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

void NcclWorld::AwaitNothingLeft() const {
  while (Left() != 0) std::this_thread::yield();
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
    if (comm->process == number_) core_->Pend(comm, result);
  }
}

void NcclWorld::Process::CutSends() {
  MutexLock lock(&core_->mutex);
  core_->processes[static_cast<size_t>(number_)].cut = true;
}

void NcclWorld::Process::LimitAllocations(int more) {
  MutexLock lock(&core_->mutex);
  core_->processes[static_cast<size_t>(number_)].allocations_left = more;
}

uint64_t NcclWorld::Process::copied_bytes() const {
  MutexLock lock(&core_->mutex);
  return core_->processes[static_cast<size_t>(number_)].copied_bytes;
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
