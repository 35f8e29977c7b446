// Who is in the pool, who holds what, and which table is in force. Workers join, load what they are assigned,
// leave or are lost; each change makes a placement of a new epoch, which comes into force when all its
// holders have loaded it. The table before it stays in force as long as all its members live.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/gpu_reading.h"
#include "common/base/mutex.h"
#include "common/base/strong_id.h"
#include "common/transport/pool_protocol.h"
#include "router/pool.h"
#include "router/worker_totals.h"

namespace moepool {

// A worker's control connection, as membership sees it. Called with membership's lock held: no method blocks
// or calls back. Calls on a link whose peer is gone do nothing.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  virtual void Welcome(WorkerId worker) = 0;  // the first call, once
  // All that the worker is to hold from this epoch on; what is not listed is kept until Release of the same
  // epoch.
  virtual void Assign(uint64_t epoch, std::vector<ExpertRef> experts) = 0;
  virtual void Release(uint64_t epoch) = 0;
  virtual void Goodbye(const std::string& reason) = 0;  // the last call; ends the connection
};

// What a worker says of itself when it joins.
struct WorkerDescription {
  uint32_t protocol_version = 0;
  std::string model_digest;  // raw bytes
  std::string name;          // host:pid
  std::string backend;
  std::string numeric_class;
  uint64_t memory_limit_bytes = 0;  // 0: no limit
  bool on_host = false;             // of the router, whatever carries its frames
};

struct WorkerLoad {
  uint64_t expert_bytes = 0;
  uint64_t dispatches = 0;
  uint64_t rows = 0;
  double busy_seconds = 0;
  std::optional<GpuReading> gpu = {};
};

struct MembershipOptions {
  int layers = 0;
  int experts = 0;
  std::vector<uint64_t> expert_bytes;  // [layers * experts]
  std::string model_digest;            // raw bytes
  std::string numeric_class;           // of every worker; empty: of the first to join
  int min_workers = 1;  // the first placement waits for so many, so that start-up does not load twice
  absl::Duration heartbeat = absl::Seconds(1);
  int missed_heartbeats = 10;                       // silence of so many is loss
  absl::Duration attach_limit = absl::Seconds(30);  // from joining until there is a transport
  std::function<absl::Time()> clock = absl::Now;
};

struct PoolCounters {
  uint64_t epoch = 0;  // in force; 0: none
  uint64_t joins = 0;
  uint64_t losses = 0;
  int workers = 0;
};

// "0-7,9" from ascending numbers.
std::string FormatRanges(const std::vector<int32_t>& numbers);

// Thread-safe. Routes() and ReportExchanges() never wait for a placement.
class Membership final : public ExpertPool {
 public:
  explicit Membership(MembershipOptions options);
  ~Membership() override;

  // FailedPrecondition where the protocol, the model digest or the numeric class differs, with both values;
  // the link is not called then.
  absl::StatusOr<WorkerId> Join(const WorkerDescription& description, std::shared_ptr<WorkerLink> link);
  // NotFound where the worker is gone; FailedPrecondition where it has a transport. The transport is closed
  // then.
  absl::Status AttachTransport(WorkerId worker, std::shared_ptr<ExpertTransport> transport);
  // Words of a worker. Those about a superseded epoch, or of a worker that is gone, are ignored.
  void OnLoaded(WorkerId worker, uint64_t epoch);
  void OnLoadFailed(WorkerId worker, uint64_t epoch, const std::string& error);
  void OnLoad(WorkerId worker, const WorkerLoad& load);  // the heartbeat
  // Its experts go to others, then it is told Goodbye; at once where the others cannot hold them.
  void OnLeaving(WorkerId worker);
  // Looks for silent workers. To be called about once a heartbeat.
  void Tick();
  // Goodbye to all; nobody joins afterwards.
  void Shutdown(const std::string& reason);

  PoolCounters Counters();

  std::shared_ptr<const RoutingTable> Routes() override;
  std::string WaitingFor() override;
  void ReportLoss(WorkerId worker, const absl::Status& cause) override;
  void ReportExchanges(std::span<const ExchangeReport> reports) override;
  // States: joining (no transport or no assignment yet), loading, ready, draining, unfit (could not load what
  // it was assigned).
  std::vector<PoolWorkerInfo> Workers() override;

 private:
  struct Member;
  struct Plan;
  // What is done after the lock: closing transports, which have locks of their own, and logging.
  struct Cleanup;

  Member* Find(WorkerId worker) REQUIRES(mutex_);
  void Heard(Member* member) REQUIRES(mutex_);
  void Remove(WorkerId worker, const absl::Status& cause, bool lost, Cleanup* cleanup) REQUIRES(mutex_);
  void Replan(Cleanup* cleanup) REQUIRES(mutex_);
  void CommitIfLoaded(Cleanup* cleanup) REQUIRES(mutex_);
  void SetTable(std::shared_ptr<const RoutingTable> table) REQUIRES(mutex_);
  bool InTable(WorkerId worker) REQUIRES(mutex_);
  bool InPlan(WorkerId worker) const REQUIRES(mutex_);
  std::string WaitingForLocked() REQUIRES(mutex_);

  const MembershipOptions options_;
  Mutex mutex_;
  std::map<WorkerId, std::unique_ptr<Member>> members_ GUARDED_BY(mutex_);  // ids ascend in order of joining
  std::unique_ptr<Plan> plan_
      GUARDED_BY(mutex_);  // being loaded; null where none is, or the table is the last plan
  absl::Status plan_status_ GUARDED_BY(mutex_);  // why there is no plan
  uint64_t last_worker_ GUARDED_BY(mutex_) = 0;
  uint64_t last_epoch_ GUARDED_BY(mutex_) = 0;
  bool placed_ GUARDED_BY(mutex_) = false;  // min_workers has been reached once
  bool shut_down_ GUARDED_BY(mutex_) = false;
  uint64_t losses_ GUARDED_BY(mutex_) = 0;

  // Taken after mutex_ where both are.
  Mutex routes_mutex_;
  std::shared_ptr<const RoutingTable> table_ GUARDED_BY(routes_mutex_);
  std::map<WorkerId, WorkerTotals> totals_ GUARDED_BY(routes_mutex_);
};

}  // namespace moepool
