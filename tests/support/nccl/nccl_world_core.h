// The world behind nccl_stand_in.h: what processes, communicators and streams are at a moment, and how they
// go on. Everything is of one mutex.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "tests/support/nccl/nccl_stand_in.h"

namespace moepool {
namespace nccl_world {

struct Comm;

// Aligned as a GPU's is.
struct DeleteMemory {
  void operator()(uint8_t* memory) const { ::operator delete[](memory, std::align_val_t{256}); }
};
using Memory = std::unique_ptr<uint8_t[], DeleteMemory>;
inline Memory NewMemory(size_t bytes) { return Memory(new (std::align_val_t{256}) uint8_t[bytes]); }

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
  NcclResult pending = NcclResult::kSuccess;  // an error that shows when it is next asked and has no job
  std::shared_ptr<Job> job;
  std::deque<std::shared_ptr<Transfer>> active;  // at the head of their stream
};

}  // namespace nccl_world

struct NcclWorld::Core {
  struct ProcessState {
    bool dead = false;
    bool told = true;
    bool cut = false;
    int largest_group = 0;
    int allocations_left = -1;  // below 0: no limit
    uint64_t copied_bytes = 0;
    std::map<NcclCall, int> calls;
    std::map<NcclCall, std::pair<int, NcclResult>> failures;
    NcclCall dies_in = NcclCall::kSend;
    int dies_at = 0;  // 0: never
    std::function<void()> on_death;
  };

  using Comm = nccl_world::Comm;
  using Stream = nccl_world::Stream;
  using Transfer = nccl_world::Transfer;
  using Job = nccl_world::Job;
  using Work = nccl_world::Work;

  Mutex mutex;
  bool holds_joins GUARDED_BY(mutex) = false;
  uint64_t next_id GUARDED_BY(mutex) = 1;
  std::vector<ProcessState> processes GUARDED_BY(mutex);
  std::vector<std::unique_ptr<Comm>> joined GUARDED_BY(mutex);  // ever, so that no address is used twice
  std::set<Comm*> comms GUARDED_BY(mutex);                      // that were not aborted
  std::set<Stream*> streams GUARDED_BY(mutex);
  std::map<const uint8_t*, std::pair<size_t, int>> memory GUARDED_BY(mutex);  // begin: bytes, process
  std::vector<nccl_world::Memory> misused GUARDED_BY(mutex);                  // freed while in use
  std::vector<std::string> violations GUARDED_BY(mutex);

  void Violation(std::string what) REQUIRES(mutex);
  // kSuccess where the call is to go on.
  NcclResult Enter(int number, NcclCall call, std::function<void()>* on_death) REQUIRES(mutex);
  void Pend(Comm* comm, NcclResult error) REQUIRES(mutex);
  void FailJob(const Job& job, NcclResult error) REQUIRES(mutex);
  bool Alive(const Comm* comm) REQUIRES(mutex);
  NcclResult State(Comm* comm) REQUIRES(mutex);
  void Begin(std::shared_ptr<Job> job) REQUIRES(mutex);
  void Progress() REQUIRES(mutex);
  bool Step(Stream* stream) REQUIRES(mutex);
  // With the first unlike transfer of the peer.
  bool Match(Transfer* mine) REQUIRES(mutex);
  bool Uses(const Stream& stream, const uint8_t* begin, size_t bytes) REQUIRES(mutex);
};

}  // namespace moepool
