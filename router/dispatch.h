// The exchanges of a step's layers as the router sees them: rows grouped by worker, one dispatch a worker,
// and the parts that come back added in the canonical order. Owned by the engine's thread.
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
#include "common/model/config.h"
#include "common/model/gate_policy.h"
#include "common/transport/frame.h"
#include "router/contention.h"
#include "router/exchange.h"
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
  uint64_t packed = 0;  // of the dispatches, those with rows from device memory
  uint64_t parts = 0;
  uint64_t rows = 0;  // summed over layers
  uint64_t losses = 0;
  std::array<uint64_t, kRetryReasons> retries{};
  std::array<uint64_t, kMostParts + 1> rows_by_parts{};  // asked of all workers for a row; the last: or more
  uint64_t asleep = 0;                                   // layers whose waits slept at once (contention.h)
  double wait_seconds = 0;                               // of the trunk, for parts
  double computed_seconds = 0;  // of each exchange, what the worker that took longest says
  // Of a layer and micro-batch: first send to last part.
  TimeHistogram exchange;
  // The same less the longest that a worker says it computed, or the trunk did meanwhile. What is hidden
  // behind the other micro-batch is not in it: neither what the trunk does for that, nor what a worker still
  // did for it, nor the trunk's waits, which are counted where they are waited for. Not of layers with
  // workers in this process, which compute one after another.
  TimeHistogram exchange_own;
};

// Micro-batches of a step whose exchanges may be under way at once.
inline constexpr int kMicroBatches = 2;

// The rows of a micro-batch with what the gate of a layer chose for them.
struct GatedRows {
  int micro_batch = 0;  // under kMicroBatches
  int layer = 0;
  WireDType wire = WireDType::kF32;
  Activations x;                             // [rows, hidden] in host memory; no pointers: it is not there
  std::span<const SelectedExpert> selected;  // [rows * experts_per_token], ascending within a row
  std::span<const uint8_t> skip;             // [rows]: 1 leaves the row out
  // Where the rows are in device memory too: there, in the form of `wire` alone, and what packs them. What
  // was queued there before has been waited for.
  Activations on_device = {};
  TrunkOps* ops = nullptr;
};

class Dispatcher {
 public:
  // `pool` outlives this. `model_digest`: the first 8 bytes of the digest.
  Dispatcher(const ModelConfig& config, uint64_t model_digest, ExpertPool* pool, DispatchTimeouts timeouts,
             RouterIdentity identity, std::function<absl::Time()> clock = absl::Now);

  // When nobody wants the results of the layers to come any more. Workers are told, and do not begin what is
  // too late.
  void SetStepDeadline(absl::Time deadline) { step_deadline_ = deadline; }

  // Sends the rows to the workers that `table` names for their experts. Nothing of their micro-batch is under
  // way.
  // Unavailable where a worker is lost on the way, which is reported to the pool, or where `table` is out of
  // date: a worker refuses an expert that newer routes have let it release. Cancelled where a worker has not
  // begun because the step's deadline has passed. Nothing of any micro-batch is under way then.
  absl::Status Begin(const GatedRows& rows, std::shared_ptr<const RoutingTable> table);

  // Waits for the parts of what Begin() has sent and has `ops` add them to residual [rows, hidden] in the
  // canonical order.  `shared` [rows, hidden] or null: what the rows get from the trunk's own expert.  Sets
  // faults[row] where a part is not finite. Unavailable as above; residual is then unchanged.
  absl::Status Finish(int micro_batch, TrunkOps* ops, const float* shared, float* residual, RowFaults faults);

  // What was queued for the step has been waited for: memory that it read is let go.
  void EndStep();

  // Counts a layer whose experts the trunk has run itself, as `table` lets it, within `compute`, or where it
  // does not wait for them queued within that: as one dispatch of which nothing was sent.  selected [rows *
  // experts_per_token], experts -1 where a row had none.
  void CountDirect(int layer, int rows, std::span<const SelectedExpert> selected, const RoutingTable& table,
                   absl::Duration compute);

  // Whether a dispatch of `rows` rows would have some in host memory go to members of `table`, all of which
  // are then best fetched with the gate's choices.
  static bool WantsHostRows(const RoutingTable& table, WireDType wire, int rows, int hidden);

  const DispatchTotals& totals() const { return totals_; }
  const ExpertLoad& load() const { return load_; }  // for any thread
  // Round trips by worker of the table last used, added up since it is in it.
  const std::map<WorkerId, absl::Duration>& round_trips() const { return round_trips_; }

 private:
  // Queues the packing of rows that go from device memory. Fetches those that go from the host's into *rows
  // where they are not there.
  void Pack(Exchange* exchange, GatedRows* rows);
  absl::Status Send(const GatedRows& rows, Exchange* exchange, size_t member);
  absl::Status Receive(Exchange* exchange, size_t member);
  absl::Status AcceptReply(Exchange* exchange, FrameBytes frame, size_t member, size_t* missing);
  // The exchange's answers have been taken: adds its times to the totals, which was waited for from `waiting`
  // to `end`.
  void CountTime(const Exchange& exchange, absl::Time waiting, absl::Time end);
  // Tells the pool how the exchange's dispatches went, whose parts were added by `added`.
  void Report(const Exchange& exchange, absl::Time added);
  // Whether the pool's routes are no longer `table`.
  bool Superseded(const RoutingTable& table) const;
  // Takes the worker out of the pool unless the routes are to blame, gives up on all that is under way, and
  // returns what the caller is to return.
  absl::Status Lose(const Exchange& exchange, size_t member, const absl::Status& cause);
  void GiveUp();

  const ModelConfig config_;
  const FrameLimits limits_;
  ExpertPool* const pool_;
  const DispatchTimeouts timeouts_;
  const RouterIdentity identity_;
  const std::function<absl::Time()> clock_;
  uint64_t next_dispatch_ = 1;
  absl::Time step_deadline_ = absl::InfiniteFuture();

  std::array<Exchange, kMicroBatches> exchanges_;  // [micro-batches]
  bool refused_ = false;                           // the last frame that came was a refusal
  std::vector<uint8_t> skipped_;                   // scratch
  std::vector<uint8_t> frame_;                     // scratch
  std::vector<ExchangeReport> reports_;            // scratch
  HostContention contention_;
  DispatchTotals totals_;
  ExpertLoad load_;
  uint64_t round_trips_epoch_ = 0;
  std::map<WorkerId, absl::Duration> round_trips_;
};

}  // namespace moepool
