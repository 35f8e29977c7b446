// The exchange of one layer as the router sees it: rows grouped by worker, one dispatch a worker, and the
// parts that come back added in the canonical order. Owned by the engine's thread.
#pragma once

#include <cstdint>
#include <functional>
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

// Running totals, for metrics.
struct DispatchTotals {
  uint64_t dispatches = 0;
  uint64_t parts = 0;
  uint64_t rows = 0;  // summed over layers
  uint64_t bytes_out = 0;
  uint64_t bytes_in = 0;
  uint64_t losses = 0;
  uint64_t asleep = 0;      // layers whose waits slept at once (contention.h)
  double wait_seconds = 0;  // from the last send of a layer to its last part
  TimeHistogram exchange;   // of a layer: first send to last part
  // The same less the longest that a worker says it computed, or the trunk did meanwhile. Not of layers with
  // workers in this process, which compute one after another.
  TimeHistogram exchange_own;
};

class Dispatcher {
 public:
  // `pool` outlives this. `model_digest`: the first 8 bytes of the digest.
  Dispatcher(const ModelConfig& config, uint64_t model_digest, ExpertPool* pool, DispatchTimeouts timeouts,
             RouterIdentity identity, std::function<absl::Time()> clock = absl::Now);

  // Sends the rows of `x` to the workers that `table` names for their experts.
  //   selected [x.rows * experts_per_token], ascending within a row.   skip [x.rows]: 1 leaves the row out.
  // Unavailable where a worker is lost on the way, which is reported to the pool, or where `table` is out of
  // date: a worker refuses an expert that newer routes have let it release.
  absl::Status Begin(int layer, WireDType wire, const Activations& x,
                     std::span<const SelectedExpert> selected, std::span<const uint8_t> skip,
                     std::shared_ptr<const RoutingTable> table);

  // Waits for the parts and has `ops` add them to residual [rows, hidden] in the canonical order.  `shared`
  // [rows, hidden] or null: what the rows get from the trunk's own expert.  Sets faults[row] where a part is
  // not finite. Unavailable as above; residual is then unchanged.
  absl::Status Finish(TrunkOps* ops, const float* shared, float* residual, RowFaults faults);

  const DispatchTotals& totals() const { return totals_; }

 private:
  // What one worker is asked for.
  struct Share {
    uint64_t dispatch_id = 0;
    size_t host_slot = 0;
    absl::Time sent;
    absl::Time deadline;
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
  std::vector<uint8_t> frame_;        // scratch
  int layer_ = 0;
  absl::Time sending_;  // begins
  absl::Time begun_;    // all is sent
  HostContention contention_;
  DispatchTotals totals_;
};

}  // namespace moepool
