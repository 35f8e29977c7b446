// What the engine sees of the pool: who answers for which expert at this moment. Membership (join, loss,
// placement) stands behind it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/strong_id.h"
#include "common/transport/expert_transport.h"
#include "common/trunk/trunk.h"

namespace moepool {

struct RouteMember {
  WorkerId worker;
  std::shared_ptr<ExpertTransport> transport;
  bool on_host = false;  // in another process of the router's host
};

// Immutable. Every expert of every layer has a member.
struct RoutingTable {
  uint64_t epoch = 0;
  std::vector<RouteMember> members;
  std::vector<int32_t> member;  // [layers * experts] index into members

  int Owner(int layer, int experts, int expert) const { return member[layer * experts + expert]; }
};

// Thread-safe.
class ExpertPool {
 public:
  virtual ~ExpertPool() = default;
  // The table in force; null while some expert has no holder.
  virtual std::shared_ptr<const RoutingTable> Routes() = 0;
  // Why Routes() is null, naming what is missing with both values ("0 of 2 workers", bytes needed and had).
  virtual std::string WaitingFor() = 0;
  // A dispatch to this worker failed for good: it is out of the pool from now on. Routes() changes before
  // this returns.
  virtual void ReportLoss(WorkerId worker, const absl::Status& cause) = 0;
  // After a dispatch: for the moving average and the counters.
  virtual void ReportRoundTrip(WorkerId worker, absl::Duration round_trip) = 0;
  // For people and metrics: every worker known, in order of joining.
  virtual std::vector<PoolWorkerInfo> Workers() = 0;
};

}  // namespace moepool
