// The exchange of one layer as the router sees it: rows grouped by worker, one dispatch a worker, and the
// parts that come back added in the canonical order. Owned by the engine's thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/backend/backend.h"
#include "common/base/time_histogram.h"
#include "common/model/canonical_sum.h"
#include "common/model/config.h"
#include "common/model/gate_policy.h"
#include "common/transport/frame.h"
#include "router/contention.h"
#include "router/expert_load.h"
#include "router/pool.h"

namespace moepool {

// A dispatch has until its deadline, which grows with its rows, before its worker counts as lost.
struct DispatchTimeouts {
  absl::Duration base = absl::Seconds(10);
  absl::Duration per_row = absl::Milliseconds(20);
};

// Which router, and which run of it, a frame comes from.
struct RouterIdentity {
  uint64_t router_id = 0;
  uint64_t incarnation = 0;
};
RouterIdentity RandomIdentity();

// Why a step is run again.
enum class RetryReason : uint8_t {
  kStaleRoutes,  // a worker has released an expert, as newer routes let it
  kTimeout,      // no answer by the dispatch's deadline, or begun too late
  kConnection,   // lost
  kRefusal,      // the worker refused, or answered what it was not asked
};
inline constexpr size_t kRetryReasons = 4;
const char* RetryReasonName(RetryReason reason);

// Running totals, for metrics.
struct DispatchTotals {
  static constexpr size_t kMostParts = 64;
  uint64_t dispatches = 0;
  uint64_t parts = 0;
  uint64_t rows = 0;  // summed over layers
  uint64_t losses = 0;
  std::array<uint64_t, kRetryReasons> retries{};
  std::array<uint64_t, kMostParts + 1> rows_by_parts{};  // asked of all workers for a row; the last: or more
  uint64_t asleep = 0;                                   // layers whose waits slept at once (contention.h)
  double wait_seconds = 0;                               // from the last send of a layer to its last part
  TimeHistogram exchange;                                // of a layer: first send to last part
  // The same less the longest that a worker says it computed, or the trunk did meanwhile. Not of layers with
  // workers in this process, which compute one after another.
  TimeHistogram exchange_own;
};

class Dispatcher {
 public:
  // `pool` outlives this. `model_digest`: the first 8 bytes of the digest.
  Dispatcher(const ModelConfig& config, uint64_t model_digest, ExpertPool* pool, DispatchTimeouts timeouts,
             RouterIdentity identity, std::function<absl::Time()> clock = absl::Now);

  // When nobody wants the results of the layers to come any more. Workers are told, and do not begin what is
  // too late.
  void SetStepDeadline(absl::Time deadline) { step_deadline_ = deadline; }

  // Sends the rows of `x` to the workers that `table` names for their experts.
  //   selected [x.rows * experts_per_token], ascending within a row.   skip [x.rows]: 1 leaves the row out.
  // Unavailable where a worker is lost on the way, which is reported to the pool, or where `table` is out of
  // date: a worker refuses an expert that newer routes have let it release. Cancelled where a worker has not
  // begun because the step's deadline has passed.
  absl::Status Begin(int layer, WireDType wire, const Activations& x,
                     std::span<const SelectedExpert> selected, std::span<const uint8_t> skip,
                     std::shared_ptr<const RoutingTable> table);

  // Waits for the parts and has `ops` add them to residual [rows, hidden] in the canonical order.  `shared`
  // [rows, hidden] or null: what the rows get from the trunk's own expert.  Sets faults[row] where a part is
  // not finite. Unavailable as above; residual is then unchanged.
  absl::Status Finish(TrunkOps* ops, const float* shared, float* residual, RowFaults faults);

  // Counts a layer whose experts the trunk has run itself, as `table` lets it, within `compute`, or where it
  // does not wait for them queued within that: as one dispatch of which nothing was sent.  selected [rows *
  // experts_per_token], experts -1 where a row had none.
  void CountDirect(int layer, int rows, std::span<const SelectedExpert> selected, const RoutingTable& table,
                   absl::Duration compute);

  const DispatchTotals& totals() const { return totals_; }
  const ExpertLoad& load() const { return load_; }  // for any thread
  // Round trips by worker of the table last used, added up since it is in it.
  const std::map<WorkerId, absl::Duration>& round_trips() const { return round_trips_; }

 private:
  // What one worker is asked for.
  struct Share {
    uint64_t dispatch_id = 0;
    size_t host_slot = 0;
    absl::Time sent;  // begins
    absl::Duration dispatch;
    absl::Time received;  // the last part
    absl::Time deadline;
    uint64_t sent_bytes = 0;
    uint64_t received_bytes = 0;
    int last_row = -1;
    std::vector<int32_t> rows;
    std::vector<WirePart> parts;
    std::vector<ExpertEntry> entries;
    std::vector<int32_t> part_of;  // by local part: its number in the step
    std::vector<uint8_t> have;     // by local part
    uint32_t compute_us = 0;       // what the worker says
  };

  void Plan(const Activations& x, std::span<const SelectedExpert> selected, std::span<const uint8_t> skip);
  // Finds whether the workers of this host have even shares of the layer's work. They are then told to keep
  // to their parts of the cores; where shares are uneven they had better compete for them.
  void PlanHost();
  absl::Status Send(int layer, WireDType wire, const Activations& x, size_t member);
  absl::Status Receive(size_t member);
  // Adds the layer's to the totals: it was sent from sending_ to begun_, and waited for from `waiting` to
  // `end`.
  void CountTime(absl::Time waiting, absl::Time end);
  // Tells the pool how the layer's dispatches went, which were added by `added`.
  void Report(absl::Time added);
  // Whether the pool's routes are no longer those of the layer under way.
  bool Superseded() const;
  absl::Status AcceptReply(FrameBytes frame, size_t member, size_t* missing);
  // Takes the worker out of the pool unless the routes are to blame, gives up on the layer's other
  // dispatches, and returns what the caller is to return.
  absl::Status Lose(size_t member, const absl::Status& cause);

  const ModelConfig config_;
  const FrameLimits limits_;
  const uint32_t levels_;
  ExpertPool* const pool_;
  const DispatchTimeouts timeouts_;
  const RouterIdentity identity_;
  const std::function<absl::Time()> clock_;
  uint64_t next_dispatch_ = 1;
  absl::Time step_deadline_ = absl::InfiniteFuture();

  // The layer under way.
  std::shared_ptr<const RoutingTable> table_;
  std::vector<Share> shares_;         // [members]
  size_t host_workers_ = 0;           // FrameHeader::host_workers
  bool all_shared_memory_ = false;    // carries the frames of every worker that is asked
  bool asleep_ = false;               // FrameHeader::flags of them
  std::vector<PlannedPart> parts_;    // of all rows
  std::vector<PlannedAdd> adds_;      // part numbers of their row
  std::vector<CombineRow> rows_;      // of those that are not skipped
  std::vector<int32_t> row_of_;       // [parts]
  std::vector<FrameBytes> replies_;   // that hold the parts
  std::vector<const float*> data_;    // [parts] -> [hidden]
  std::vector<uint8_t> part_fault_;   // [parts]
  std::vector<int32_t> row_experts_;  // scratch
  std::vector<int> row_owners_;       // scratch
  std::vector<uint8_t> expert_seen_;  // scratch
  std::vector<uint8_t> skipped_;      // scratch
  std::vector<uint8_t> frame_;        // scratch
  int layer_ = 0;
  bool refused_ = false;                 // the last frame that came was a refusal
  absl::Time sending_;                   // begins
  absl::Time begun_;                     // all is sent
  std::vector<ExchangeReport> reports_;  // scratch
  HostContention contention_;
  DispatchTotals totals_;
  ExpertLoad load_;
  uint64_t round_trips_epoch_ = 0;
  std::map<WorkerId, absl::Duration> round_trips_;
};

}  // namespace moepool
