// What Membership tells: the table, why there is none, and the state of each worker.
#include <utility>

#include "common/base/str.h"
#include "router/membership_state.h"

namespace moepool {

std::shared_ptr<const RoutingTable> Membership::Routes() {
  MutexLock lock(&routes_mutex_);
  return table_;
}

void Membership::ReportRoundTrip(WorkerId worker, absl::Duration round_trip) {
  constexpr double kNewest = 0.1;  // its share in the moving average
  MutexLock lock(&routes_mutex_);
  RoundTrip& entry = round_trips_[worker];
  entry.average = entry.dispatches == 0 ? round_trip : (1 - kNewest) * entry.average + kNewest * round_trip;
  ++entry.dispatches;
}

std::string Membership::WaitingFor() {
  MutexLock lock(&mutex_);
  return WaitingForLocked();
}

std::string Membership::WaitingForLocked() {
  if (shut_down_) return "the router is going away";
  if (Routes() != nullptr) return "";
  if (plan_ == nullptr) {
    return members_.empty() && plan_status_.ok() ? StrCat("0 of ", options_.min_workers, " workers have joined")
                                                 : std::string(plan_status_.message());
  }
  int holders = 0;
  int loaded = 0;
  std::string missing;
  for (const WorkerId id : plan_->workers) {
    const Member* member = Find(id);
    if (member->assigned.empty()) continue;
    ++holders;
    if (member->loaded_epoch != plan_->epoch) {
      missing += StrCat(missing.empty() ? "" : ", ", member->description.name, " (loading)");
      continue;
    }
    ++loaded;
    if (member->transport == nullptr) missing += StrCat(missing.empty() ? "" : ", ", member->description.name, " (transport)");
  }
  return StrCat(loaded, " of ", holders, " workers have loaded epoch ", plan_->epoch, "; waiting for ", missing);
}

PoolInfo Membership::Info() {
  MutexLock lock(&mutex_);
  PoolInfo info;
  const std::shared_ptr<const RoutingTable> table = Routes();
  if (table != nullptr) info.epoch = table->epoch;
  info.waiting_for = WaitingForLocked();
  info.joins = last_worker_;
  info.losses = losses_;
  const absl::Time now = options_.clock();
  for (const auto& [id, member] : members_) {
    WorkerInfo worker;
    worker.id = id;
    worker.description = member->description;
    if (member->transport != nullptr) worker.transport = std::string(member->transport->Name());
    worker.state = member->leaving                                         ? "draining"
                   : !member->unfit.empty()                                ? "unfit"
                   : member->transport == nullptr                          ? "joining"
                   : member->loaded_epoch != member->assigned_epoch        ? "loading"
                                                                           : "ready";
    worker.experts = member->assigned;
    worker.load = member->load;
    worker.silence = now - member->heard;
    MutexLock routes_lock(&routes_mutex_);
    if (const auto it = round_trips_.find(id); it != round_trips_.end()) {
      worker.dispatches = it->second.dispatches;
      worker.round_trip = it->second.average;
    }
    info.workers.push_back(std::move(worker));
  }
  return info;
}

}  // namespace moepool
