// The exchange of one layer for one micro-batch: what each worker is asked for, what has come back, and how
// the parts are added. The dispatcher's state of the rows under way; it has one for each micro-batch.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "common/backend/backend.h"
#include "common/model/canonical_sum.h"
#include "common/model/config.h"
#include "common/model/gate_policy.h"
#include "common/transport/expert_transport.h"
#include "common/transport/frame.h"
#include "router/pool.h"

namespace moepool {

// What one worker is asked for.
struct ExchangeShare {
  uint64_t dispatch_id = 0;  // 0: nothing is open
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
  std::vector<int32_t> part_of;  // by local part: its number in the exchange
  std::vector<uint8_t> have;     // by local part
  uint32_t compute_us = 0;       // what the worker says
  // Of the time since `sent`, how long the worker was at most still at the other micro-batch's dispatch.
  absl::Duration behind;
  DeviceBytes packed;  // its rows, until Plan() unless sent; empty: they go from the host
};

class Exchange {
 public:
  // Takes the rows in, of which nothing is sent yet: fills the shares of `table`'s members, and what follows
  // them down to row_of.
  //   selected [rows * experts_per_token], ascending within a row.   skip [rows]: 1 leaves the row out.
  void Plan(const ModelConfig& config, int layer_number, int row_count,
            std::span<const SelectedExpert> selected, std::span<const uint8_t> skip,
            std::shared_ptr<const RoutingTable> routes);
  // An answer of this exchange has been taken in full: `other`, which was sent later, had to wait for it.
  void HoldUp(size_t member, Exchange* other) const;
  // The exchange is over: lets the replies and the table go. Parts that operations still read stay until the
  // next Plan().
  void Clear();

  int micro_batch = 0;
  int layer = 0;
  std::shared_ptr<const RoutingTable> table;  // null: nothing is under way
  std::vector<ExchangeShare> shares;          // [members]
  size_t host_workers = 0;                    // FrameHeader::host_workers
  bool all_shared_memory = false;             // carries the frames of every worker that is asked
  bool asleep = false;                        // FrameHeader::flags of them
  std::vector<PlannedPart> parts;             // of all rows
  std::vector<PlannedAdd> adds;               // part numbers of their row
  std::vector<CombineRow> rows;               // of those that are not skipped
  std::vector<int32_t> row_of;                // [parts]
  std::vector<FrameBytes> replies;            // that hold the parts
  std::vector<FrameBytes> combining;          // of the last exchange: what Combine() reads on the device
  std::vector<const float*> data;             // [parts] -> [hidden]
  std::vector<uint8_t> on_device;             // [parts] 1: data is there
  std::vector<uint8_t> part_fault;            // [parts]
  absl::Time sending;                         // begins
  absl::Time begun;                           // all is sent

 private:
  // Finds whether the workers of this host have even shares of the layer's work. They are then told to keep
  // to their parts of the cores; where shares are uneven they had better compete for them.
  void PlanHost(int experts);

  std::vector<int32_t> row_experts_;  // scratch
  std::vector<int> row_owners_;       // scratch
  std::vector<uint8_t> expert_seen_;  // scratch
};

}  // namespace moepool
