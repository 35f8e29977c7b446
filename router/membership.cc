#include "router/membership.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "router/membership_state.h"
#include "router/placement.h"

namespace moepool {
namespace {

std::string Hex(const std::string& bytes) { return absl::BytesToHexString(bytes); }

}  // namespace

Membership::Membership(MembershipOptions options) : options_(std::move(options)) {}
Membership::~Membership() { Shutdown("the router is going away"); }

Membership::Member* Membership::Find(WorkerId worker) {
  const auto it = members_.find(worker);
  return it == members_.end() ? nullptr : it->second.get();
}

void Membership::Heard(Member* member) { member->heard = options_.clock(); }

absl::StatusOr<WorkerId> Membership::Join(const WorkerDescription& description,
                                          std::shared_ptr<WorkerLink> link) {
  Cleanup cleanup;
  MutexLock lock(&mutex_);
  if (shut_down_) return absl::UnavailableError("the router is going away");
  if (description.protocol_version != kPoolProtocolVersion) {
    return absl::FailedPreconditionError(StrCat("worker ", description.name, " speaks pool protocol ",
                                                description.protocol_version, ", the router ",
                                                kPoolProtocolVersion));
  }
  if (description.model_digest != options_.model_digest) {
    return absl::FailedPreconditionError(StrCat("worker ", description.name, " serves a model with digest ",
                                                Hex(description.model_digest), ", the router one with ",
                                                Hex(options_.model_digest)));
  }
  const std::string& numeric_class = !options_.numeric_class.empty() ? options_.numeric_class
                                     : members_.empty()              ? description.numeric_class
                                                        : members_.begin()->second->description.numeric_class;
  if (description.numeric_class != numeric_class) {
    return absl::FailedPreconditionError(StrCat("worker ", description.name, " computes in numeric class ",
                                                description.numeric_class, ", the pool in ", numeric_class));
  }
  auto member = std::make_unique<Member>();
  member->id = WorkerId(++last_worker_);
  member->description = description;
  member->link = std::move(link);
  member->joined = member->heard = options_.clock();
  member->may_hold.resize(static_cast<size_t>(options_.layers) * options_.experts, false);
  member->link->Welcome(member->id);
  const WorkerId id = member->id;
  members_[id] = std::move(member);
  cleanup.Note(LogLevel::kInfo, "worker joined", description.name, description.backend);
  Replan(&cleanup);
  return id;
}

absl::Status Membership::AttachTransport(WorkerId worker, std::shared_ptr<ExpertTransport> transport) {
  Cleanup cleanup;
  MutexLock lock(&mutex_);
  Member* member = Find(worker);
  absl::Status status;
  if (member == nullptr) {
    status = absl::NotFoundError(StrCat("worker ", worker.value(), " is not in the pool"));
  } else if (member->transport != nullptr) {
    status = absl::FailedPreconditionError(
        StrCat("worker ", worker.value(), " has a transport (", member->transport->Name(), ") already"));
  }
  if (!status.ok()) {
    cleanup.transports.emplace_back(std::move(transport), status);
    return status;
  }
  member->transport = std::move(transport);
  Heard(member);
  CommitIfLoaded(&cleanup);
  return absl::OkStatus();
}

void Membership::OnLoaded(WorkerId worker, uint64_t epoch) {
  Cleanup cleanup;
  MutexLock lock(&mutex_);
  Member* member = Find(worker);
  if (member == nullptr) return;
  Heard(member);
  if (epoch != member->assigned_epoch) return;
  member->loaded_epoch = epoch;
  CommitIfLoaded(&cleanup);
}

void Membership::OnLoadFailed(WorkerId worker, uint64_t epoch, const std::string& error) {
  Cleanup cleanup;
  MutexLock lock(&mutex_);
  Member* member = Find(worker);
  if (member == nullptr) return;
  Heard(member);
  if (epoch != member->assigned_epoch || member->loaded_epoch == epoch) return;
  std::vector<bool> extra = member->may_hold;
  for (const ExpertRef& ref : member->assigned) extra[ref.layer * options_.experts + ref.expert] = false;
  const bool holds_extra = std::find(extra.begin(), extra.end(), true) != extra.end();
  if (member->description.memory_limit_bytes != 0 && holds_extra && !member->squeezed) {
    // Old and new together may be more than its memory. The old goes first, at the price of the table that
    // needs it.
    member->squeezed = true;
    if (InTable(worker)) {
      cleanup.table = Routes();
      SetTable(nullptr);
    }
    member->link->Release(epoch);
    for (size_t i = 0; i < extra.size(); ++i) member->may_hold[i] = member->may_hold[i] && !extra[i];
    member->link->Assign(epoch, member->assigned);
    return;
  }
  member->unfit = error;
  cleanup.Note(LogLevel::kWarning, "worker cannot load", member->description.name, error);
  Replan(&cleanup);
}

void Membership::OnLoad(WorkerId worker, const WorkerLoad& load) {
  MutexLock lock(&mutex_);
  Member* member = Find(worker);
  if (member == nullptr) return;
  Heard(member);
  member->load = load;
}

void Membership::OnLeaving(WorkerId worker) {
  Cleanup cleanup;
  MutexLock lock(&mutex_);
  Member* member = Find(worker);
  if (member == nullptr || member->leaving) return;
  Heard(member);
  member->leaving = true;
  Replan(&cleanup);
}

void Membership::ReportLoss(WorkerId worker, const absl::Status& cause) {
  Cleanup cleanup;
  MutexLock lock(&mutex_);
  Remove(worker, cause, /*lost=*/true, &cleanup);
}

void Membership::Tick() {
  Cleanup cleanup;
  MutexLock lock(&mutex_);
  const absl::Time now = options_.clock();
  std::vector<std::pair<WorkerId, absl::Status>> lost;
  for (const auto& [id, member] : members_) {
    if (now - member->heard > options_.missed_heartbeats * options_.heartbeat) {
      lost.emplace_back(id,
                        absl::UnavailableError(StrCat("worker ", member->description.name, " was silent for ",
                                                      absl::FormatDuration(now - member->heard))));
    } else if (member->transport == nullptr && now - member->joined > options_.attach_limit) {
      lost.emplace_back(
          id, absl::UnavailableError(StrCat("worker ", member->description.name, " brought no transport in ",
                                            absl::FormatDuration(now - member->joined))));
    } else if (member->transport != nullptr && member->transport->Lost()) {
      lost.emplace_back(id, absl::UnavailableError(StrCat("worker ", member->description.name, ": its ",
                                                          member->transport->Name(), " transport was lost")));
    }
  }
  for (const auto& [id, cause] : lost) Remove(id, cause, /*lost=*/true, &cleanup);
}

void Membership::Shutdown(const std::string& reason) {
  Cleanup cleanup;
  MutexLock lock(&mutex_);
  shut_down_ = true;
  cleanup.table = Routes();
  SetTable(nullptr);
  plan_ = nullptr;
  for (auto& [id, member] : members_) {
    member->link->Goodbye(reason);
    if (member->transport != nullptr) {
      cleanup.transports.emplace_back(std::move(member->transport), absl::UnavailableError(reason));
    }
  }
  members_.clear();
}

void Membership::Remove(WorkerId worker, const absl::Status& cause, bool lost, Cleanup* cleanup) {
  const auto it = members_.find(worker);
  if (it == members_.end()) return;
  const std::unique_ptr<Member> member = std::move(it->second);
  members_.erase(it);
  const bool in_table = InTable(worker);
  const bool in_plan = InPlan(worker);
  if (in_table) {
    cleanup->table = Routes();
    SetTable(nullptr);
  }
  {
    MutexLock lock(&routes_mutex_);
    totals_.erase(worker);
  }
  if (lost) ++losses_;
  cleanup->Note(lost ? LogLevel::kWarning : LogLevel::kInfo, lost ? "worker lost" : "worker left",
                member->description.name, std::string(ToStd(cause.message())));
  member->link->Goodbye(std::string(ToStd(cause.message())));
  if (member->transport != nullptr) cleanup->transports.emplace_back(std::move(member->transport), cause);
  if (!shut_down_ && (in_table || in_plan || Routes() == nullptr)) Replan(cleanup);
}

void Membership::Replan(Cleanup* cleanup) {
  plan_ = nullptr;
  auto plan = std::make_unique<Plan>();
  std::vector<PlacementWorker> workers;
  std::string unfit;
  for (const auto& [id, member] : members_) {
    if (!member->unfit.empty()) unfit = StrCat("; worker ", member->description.name, ": ", member->unfit);
    if (member->leaving || !member->unfit.empty()) continue;
    workers.push_back({id, member->description.memory_limit_bytes});
    plan->workers.push_back(id);
  }
  const int joined = static_cast<int>(workers.size());
  if (!placed_ && joined < options_.min_workers) {
    plan_status_ =
        absl::UnavailableError(StrCat(joined, " of ", options_.min_workers, " workers have joined", unfit));
  } else if (workers.empty()) {
    plan_status_ = absl::UnavailableError(StrCat("0 of 1 workers are in the pool", unfit));
  } else {
    placed_ = true;
    absl::StatusOr<PlacementPlan> placement =
        PlanPlacement({workers, options_.expert_bytes, options_.layers, options_.experts});
    plan_status_ = placement.ok()
                       ? absl::OkStatus()
                       : absl::Status(placement.status().code(), StrCat(placement.status().message(), unfit));
    if (placement.ok()) plan->owner = std::move(placement->owner);
  }
  if (!plan_status_.ok()) {
    // Nobody can take over from those who are leaving.
    std::vector<WorkerId> leaving;
    for (const auto& [id, member] : members_) {
      if (member->leaving) leaving.push_back(id);
    }
    for (const WorkerId id : leaving) {
      Remove(id, absl::UnavailableError("left; no other worker can take over"), /*lost=*/false, cleanup);
    }
    return;
  }
  plan->epoch = ++last_epoch_;
  plan_ = std::move(plan);
  for (const WorkerId id : plan_->workers) {
    Member* member = Find(id);
    member->assigned.clear();
    member->squeezed = false;
  }
  for (size_t i = 0; i < plan_->owner.size(); ++i) {
    Member* member = Find(plan_->workers[plan_->owner[i]]);
    member->assigned.push_back(
        {static_cast<int32_t>(i / options_.experts), static_cast<int32_t>(i % options_.experts)});
    member->may_hold[i] = true;
  }
  for (const WorkerId id : plan_->workers) {
    Member* member = Find(id);
    member->assigned_epoch = plan_->epoch;
    member->link->Assign(plan_->epoch, member->assigned);
  }
}

void Membership::CommitIfLoaded(Cleanup* cleanup) {
  if (plan_ == nullptr) return;
  auto table = std::make_shared<RoutingTable>();
  table->epoch = plan_->epoch;
  std::vector<int32_t> index(plan_->workers.size(), -1);  // in the table, of holders
  for (size_t i = 0; i < plan_->workers.size(); ++i) {
    const Member* member = Find(plan_->workers[i]);
    if (member->assigned.empty()) continue;
    if (member->loaded_epoch != plan_->epoch || member->transport == nullptr || member->transport->Lost())
      return;
    index[i] = static_cast<int32_t>(table->members.size());
    table->members.push_back({member->id, member->transport, member->description.on_host});
  }
  table->member.reserve(plan_->owner.size());
  for (const int32_t owner : plan_->owner) table->member.push_back(index[owner]);
  cleanup->Note(LogLevel::kInfo, "placement in force", StrCat("epoch ", table->epoch),
                StrCat(table->members.size(), " holders"));
  cleanup->table = Routes();
  SetTable(std::move(table));
  for (const WorkerId id : plan_->workers) {
    Member* member = Find(id);
    std::fill(member->may_hold.begin(), member->may_hold.end(), false);
    for (const ExpertRef& ref : member->assigned)
      member->may_hold[ref.layer * options_.experts + ref.expert] = true;
    member->link->Release(plan_->epoch);
  }
  plan_ = nullptr;
  std::vector<WorkerId> leaving;
  for (const auto& [id, member] : members_) {
    if (member->leaving) leaving.push_back(id);
  }
  for (const WorkerId id : leaving) Remove(id, absl::UnavailableError("left"), /*lost=*/false, cleanup);
}

void Membership::SetTable(std::shared_ptr<const RoutingTable> table) {
  MutexLock lock(&routes_mutex_);
  table_ = std::move(table);
}

bool Membership::InTable(WorkerId worker) {
  const std::shared_ptr<const RoutingTable> table = Routes();
  if (table == nullptr) return false;
  return std::any_of(table->members.begin(), table->members.end(),
                     [worker](const RouteMember& member) { return member.worker == worker; });
}

bool Membership::InPlan(WorkerId worker) const {
  return plan_ != nullptr &&
         std::find(plan_->workers.begin(), plan_->workers.end(), worker) != plan_->workers.end();
}

}  // namespace moepool
