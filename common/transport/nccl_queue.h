// Pairs: communicators of a router and a worker, and the one thread of a process that moves their transfers.
// A pair is of two ranks because a dead rank hangs a communicator for all its members.
//
// Whatever transfers of all pairs have gathered while the last ones were handed to NCCL go in one group: the
// dispatches of a layer, which the router sends one right after another, and replies that are due meanwhile.
// Two things keep pairs in a group apart, since NCCL fails or aborts a group as a whole:
//   - a pair comes here only after a greeting has gone each way, by itself: what is left to do for a group
//     involves no peer, only this process and its device, and whether a peer takes part decides no more than
//     how long the pair's own stream runs;
//   - a pair that NCCL already knows to be broken is left out of a group, and aborted between groups.
// An error that NCCL finds between that look and the group's end, microseconds later, costs all pairs of the
// group their communicators: they are lost and built anew, as after any loss.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/transport/expert_transport.h"
#include "common/transport/nccl_api.h"
#include "common/transport/nccl_device.h"
#include "common/transport/nccl_staging.h"

namespace moepool {

struct NcclQueueOptions {
  // How long a transfer may take that both ends have begun, apart from its bytes, and NCCL to begin a group.
  absl::Duration stall_limit = absl::Seconds(10);
  double slowest_bytes_per_second = 5e6;
  // The process computes on the queue's GPU, so that ends of frames may stay in its memory.
  bool keeps_on_device = false;
};

// What a transfer moves: device memory, filled from `host` before or copied there after it; null: neither.
struct NcclBytes {
  NcclBytes() = default;
  // The first of the buffer, by way of the host's memory where it has any.
  NcclBytes(std::shared_ptr<const NcclBuffer> buffer, size_t count)
      : device(buffer->device), host(buffer->host), bytes(count), owner(std::move(buffer)) {}
  // What lies in device memory and stays there.
  explicit NcclBytes(DeviceBytes memory)
      : device(memory.data), bytes(memory.bytes), owner(std::move(memory.owner)) {}

  uint8_t* device = nullptr;
  uint8_t* host = nullptr;
  size_t bytes = 0;
  std::shared_ptr<const void> owner;
};

class NcclQueue;

// One end's. Thread-safe. Its queue outlives it.
class NcclPair {
 public:
  using Done = std::function<void()>;

  // Closes.
  ~NcclPair();
  // `lost` is called once, with the cause, whoever it was that ended the pair; by the queue's thread, as
  // `done` is. Before any transfer.
  void Start(std::function<void(const absl::Status&)> lost);
  // One transfer of a pair takes place after another, in the order of the calls, which is to be the order at
  // the other end: then neither waits long for the other. `done` is not called after a loss.
  void Send(NcclBytes bytes, Done done);
  void Receive(NcclBytes bytes, Done done);
  // The communicator is aborted, soon and without waiting for the peer.
  void Close(const absl::Status& cause);

 private:
  friend class NcclQueue;
  struct State;
  NcclPair(NcclQueue* queue, std::shared_ptr<State> state) : queue_(queue), state_(std::move(state)) {}

  NcclQueue* const queue_;
  const std::shared_ptr<State> state_;
};

// Thread-safe.
class NcclQueue {
 public:
  // The last to let go of it may be a transport that goes in one of the queue's own callbacks: then another
  // thread ends it.
  static std::shared_ptr<NcclQueue> Create(std::unique_ptr<NcclApi> api, std::shared_ptr<NcclDevice> device,
                                           const NcclQueueOptions& options = {});
  // Aborts what is left of pairs, which may no longer be used.
  ~NcclQueue();
  NcclApi& api() { return *api_; }
  NcclStaging& staging() { return staging_; }
  const NcclQueueOptions& options() const { return options_; }

  // Joins communicator `id` as `rank`, 0 for the router and 1 for the worker, and exchanges a greeting over
  // it, so that a pair is known to work before anything depends on it. Ends at `deadline`, or soon after
  // `check` fails, with its status. Unavailable says what NCCL said.
  absl::StatusOr<std::unique_ptr<NcclPair>> Connect(const NcclId& id, int rank, absl::Time deadline,
                                                    const std::function<absl::Status()>& check);

 private:
  friend class NcclPair;
  using State = NcclPair::State;

  NcclQueue(std::unique_ptr<NcclApi> api, std::shared_ptr<NcclDevice> device,
            const NcclQueueOptions& options);
  absl::Status Join(State* pair, const NcclId& id, int rank, const std::function<absl::Status()>& check);
  absl::Status Greet(State* pair, int rank, const std::function<absl::Status()>& check);
  // What NCCL says of the pair: OK, Unavailable, or false in *ready while it is still at it.
  absl::Status Ready(const State& pair, bool* ready) const;
  absl::Status Error(NcclResult result, const char* what) const;

  void Run();
  // Moves lost pairs out of the way of the next group, and returns those with a transfer to begin.
  std::vector<std::shared_ptr<State>> NextGroup();
  void Launch(std::vector<std::shared_ptr<State>> group);
  // Of transfers that have begun. True where one came to its end.
  bool Poll();
  void Lose(State* pair, const absl::Status& cause);
  void Reap();
  void Retire(std::shared_ptr<State> pair);

  const std::unique_ptr<NcclApi> api_;
  const std::shared_ptr<NcclDevice> device_;
  const NcclQueueOptions options_;
  NcclStaging staging_;

  Mutex mutex_;  // also of State's members that say so
  CondVar changed_;
  bool stop_ GUARDED_BY(mutex_) = false;
  std::vector<std::shared_ptr<State>> pairs_ GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<State>> flying_;  // of the queue's thread

  Mutex reaper_mutex_;  // taken alone
  CondVar reaper_changed_;
  bool reaper_stop_ GUARDED_BY(reaper_mutex_) = false;
  std::deque<std::shared_ptr<State>> dead_ GUARDED_BY(reaper_mutex_);
  std::thread reaper_;
  std::thread thread_;
};

}  // namespace moepool
