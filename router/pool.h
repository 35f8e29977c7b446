// What the engine sees of the pool: who answers for which expert at this moment. Membership (join, loss,
// placement) stands behind it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/backend/backend.h"
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
  // Where one member of this process holds all experts on `backend`: a trunk on the same one runs them
  // itself, without a dispatch. Otherwise null and empty.
  const Backend* backend = nullptr;
  std::vector<std::shared_ptr<const ExpertSet>> sets;  // [layers]

  // Workers of the router's host take turns with the trunk, on the same cores, and side by side with nobody.
  bool HasWorkersElsewhere() const {
    return std::any_of(members.begin(), members.end(), [](const RouteMember& each) {
      return !each.on_host && each.transport->Name() != "in_process";
    });
  }
  int Owner(int layer, int experts, int expert) const { return member[layer * experts + expert]; }
};

// How a dispatch to one worker went, for the totals.
struct ExchangeReport {
  WorkerId worker;
  int rows = 0;
  absl::Duration dispatch;    // its rows gathered, encoded and handed to the transport
  absl::Duration round_trip;  // from the beginning of that until the last of its parts was taken
  absl::Duration compute;     // as the worker says
  absl::Duration combine;     // from its last part until the parts of all workers were added
  uint64_t sent_bytes = 0;
  uint64_t received_bytes = 0;
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
  // After a layer: how each of its dispatches went.
  virtual void ReportExchanges(std::span<const ExchangeReport> reports) = 0;
  // For people and metrics: every worker known, in order of joining.
  virtual std::vector<PoolWorkerInfo> Workers() = 0;
};

}  // namespace moepool
