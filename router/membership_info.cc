// What Membership tells: the table, why there is none, and the state of each worker.
#include <utility>

#include "common/base/str.h"
#include "router/membership_state.h"

namespace moepool {

std::shared_ptr<const RoutingTable> Membership::Routes() {
  MutexLock lock(&routes_mutex_);
  return table_;
}

void Membership::ReportExchanges(std::span<const ExchangeReport> reports) {
  const absl::Time now = options_.clock();
  MutexLock lock(&routes_mutex_);
  for (const ExchangeReport& report : reports) totals_[report.worker].Add(report, now);
}

std::string Membership::WaitingFor() {
  MutexLock lock(&mutex_);
  return WaitingForLocked();
}

std::string Membership::WaitingForLocked() {
  if (shut_down_) return "the router is going away";
  if (Routes() != nullptr) return "";
  if (plan_ == nullptr) {
    return members_.empty() && plan_status_.ok()
               ? StrCat("0 of ", options_.min_workers, " workers have joined")
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
    if (member->transport == nullptr)
      missing += StrCat(missing.empty() ? "" : ", ", member->description.name, " (transport)");
  }
  return StrCat(loaded, " of ", holders, " workers have loaded epoch ", plan_->epoch, "; waiting for ",
                missing);
}

PoolCounters Membership::Counters() {
  MutexLock lock(&mutex_);
  const std::shared_ptr<const RoutingTable> table = Routes();
  return {table == nullptr ? 0 : table->epoch, last_worker_, losses_, static_cast<int>(members_.size())};
}

std::string FormatRanges(const std::vector<int32_t>& numbers) {
  std::string text;
  for (size_t begin = 0; begin < numbers.size();) {
    size_t end = begin + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    text += StrCat(text.empty() ? "" : ",", numbers[begin]);
    if (end - begin > 1) text += StrCat("-", numbers[end - 1]);
    begin = end;
  }
  return text;
}

std::vector<PoolWorkerInfo> Membership::Workers() {
  const absl::Time now = options_.clock();
  MutexLock lock(&mutex_);
  {
    // A worker may have been lost while the last of its exchanges was reported.
    MutexLock routes_lock(&routes_mutex_);
    std::erase_if(totals_, [&](const auto& entry) { return Find(entry.first) == nullptr; });
  }
  std::vector<PoolWorkerInfo> workers;
  for (const auto& [id, member] : members_) {
    PoolWorkerInfo worker;
    worker.id = id.value();
    worker.name = member->description.name;
    worker.backend = member->description.backend;
    worker.memory_limit_bytes = member->description.memory_limit_bytes;
    worker.expert_bytes = member->load.expert_bytes;
    worker.gpu = member->load.gpu;
    if (member->transport != nullptr) worker.transport = std::string(member->transport->Name());
    if (member->leaving) {
      worker.state = "draining";
    } else if (!member->unfit.empty()) {
      worker.state = "unfit";
    } else if (member->transport == nullptr || member->assigned_epoch == 0) {
      worker.state = "joining";
    } else {
      worker.state = member->loaded_epoch == member->assigned_epoch ? "ready" : "loading";
    }
    worker.experts_held = static_cast<int32_t>(member->assigned.size());
    std::vector<int32_t> first_layer;
    for (const ExpertRef& ref : member->assigned) {
      if (ref.layer == 0) first_layer.push_back(ref.expert);
    }
    worker.experts = FormatRanges(first_layer);
    MutexLock routes_lock(&routes_mutex_);
    if (const auto it = totals_.find(id); it != totals_.end()) {
      it->second.Describe(now, now - member->joined, &worker);
    }
    workers.push_back(std::move(worker));
  }
  return workers;
}

}  // namespace moepool
