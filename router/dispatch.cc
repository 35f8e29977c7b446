// See dispatch.h.
#include "router/dispatch.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <random>
#include <utility>

#include "common/base/awake_wait.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/trace.h"

namespace moepool {
namespace {

// Of this process, from layer to layer.
constexpr std::chrono::milliseconds kSleepAtOnceTime(100);

uint64_t Random64() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

RouterIdentity RandomIdentity() { return {Random64(), Random64()}; }

Dispatcher::Dispatcher(const ModelConfig& config, uint64_t model_digest, ExpertPool* pool,
                       DispatchTimeouts timeouts, RouterIdentity identity, std::function<absl::Time()> clock)
    : config_(config),
      limits_{config.hidden, config.layers, config.experts, model_digest},
      levels_(TreeLevels(config.experts)),
      pool_(pool),
      timeouts_(timeouts),
      identity_(identity),
      clock_(std::move(clock)),
      load_(config.layers, config.experts, config.experts_per_token) {}

const char* RetryReasonName(RetryReason reason) {
  switch (reason) {
    case RetryReason::kStaleRoutes:
      return "stale_routes";
    case RetryReason::kTimeout:
      return "timeout";
    case RetryReason::kConnection:
      return "connection";
    case RetryReason::kRefusal:
      return "refusal";
  }
  return "";
}

void Dispatcher::Plan(const Activations& x, std::span<const SelectedExpert> selected,
                      std::span<const uint8_t> skip) {
  const size_t k = static_cast<size_t>(config_.experts_per_token);
  shares_.resize(table_->members.size());
  for (Share& share : shares_) {
    share.dispatch_id = 0;
    share.last_row = -1;
    share.rows.clear();
    share.parts.clear();
    share.entries.clear();
    share.part_of.clear();
  }
  parts_.clear();
  adds_.clear();
  row_of_.clear();
  rows_.clear();
  row_experts_.resize(k);
  row_owners_.resize(k);
  for (int row = 0; row < x.rows; ++row) {
    if (skip[row]) continue;
    const std::span<const SelectedExpert> chosen = selected.subspan(row * k, k);
    for (size_t i = 0; i < k; ++i) {
      row_experts_[i] = chosen[i].expert;
      row_owners_[i] = table_->Owner(layer_, config_.experts, chosen[i].expert);
    }
    const size_t first_part = parts_.size();
    const size_t first_add = adds_.size();
    PlanRow(row_experts_, row_owners_, levels_, &parts_, &adds_);
    rows_.push_back({row, static_cast<int32_t>(first_part), static_cast<int32_t>(parts_.size()),
                     static_cast<int32_t>(first_add), static_cast<int32_t>(adds_.size())});
    ++totals_.rows_by_parts[std::min(parts_.size() - first_part, DispatchTotals::kMostParts)];
    for (size_t p = first_part; p < parts_.size(); ++p) {
      const PlannedPart& part = parts_[p];
      Share& share = shares_[part.owner];
      if (share.last_row != row) {
        share.rows.push_back(row);
        share.last_row = row;
      }
      share.parts.push_back({static_cast<uint32_t>(share.rows.size() - 1),
                             static_cast<uint16_t>(part.node.level), static_cast<uint16_t>(part.node.index),
                             static_cast<uint32_t>(share.entries.size())});
      for (int i = part.begin; i < part.end; ++i)
        share.entries.push_back({chosen[i].expert, chosen[i].weight});
      share.part_of.push_back(static_cast<int32_t>(p));
      row_of_.push_back(row);
    }
  }
}

void Dispatcher::PlanHost() {
  constexpr size_t kEvenness = 8;  // the largest share is above the mean by an eighth of it at most
  // Reading an expert's weights takes as long as this many rows more of its product, in four bits and in
  // eight: 145 us with one row and 260 with eight, of 12.4 MB.
  constexpr size_t kRowsAnExpert = 9;
  host_workers_ = 0;
  all_shared_memory_ = true;
  bool all_asked = true;
  size_t total = 0;
  size_t largest = 0;
  for (size_t m = 0; m < shares_.size(); ++m) {
    Share& share = shares_[m];
    const RouteMember& member = table_->members[m];
    if (!share.parts.empty() && member.transport->Name() != "shm") all_shared_memory_ = false;
    if (!member.on_host) continue;
    share.host_slot = host_workers_++;
    expert_seen_.assign(static_cast<size_t>(config_.experts), 0);
    size_t work = share.entries.size();
    for (const ExpertEntry& entry : share.entries) {
      if (expert_seen_[entry.expert] == 0) work += kRowsAnExpert;
      expert_seen_[entry.expert] = 1;
    }
    total += work;
    largest = std::max(largest, work);
    all_asked = all_asked && work > 0;
  }
  const bool even = all_asked && largest * host_workers_ * kEvenness <= total * (kEvenness + 1);
  if (!even || host_workers_ > std::numeric_limits<uint8_t>::max()) host_workers_ = 0;
}

absl::Status Dispatcher::Send(int layer, WireDType wire, const Activations& x, size_t member) {
  Share& share = shares_[member];
  const TraceSpan span("send", {"worker", static_cast<int64_t>(table_->members[member].worker.value())},
                       {"rows", static_cast<int64_t>(share.rows.size())},
                       {"parts", static_cast<int64_t>(share.parts.size())});
  const absl::Duration budget = timeouts_.base + timeouts_.per_row * static_cast<double>(share.rows.size());
  share.sent = clock_();
  share.deadline = share.sent + budget;
  share.dispatch_id = next_dispatch_++;
  share.have.assign(share.parts.size(), 0);
  share.compute_us = 0;

  ExpertTransport& transport = *table_->members[member].transport;
  DispatchRequest request;
  request.header.router_id = identity_.router_id;
  request.header.incarnation = identity_.incarnation;
  request.header.dispatch_id = share.dispatch_id;
  request.header.model_digest = limits_.model_digest;
  request.header.epoch = table_->epoch;
  if (host_workers_ > 0 && table_->members[member].on_host) {
    request.header.host_workers = static_cast<uint8_t>(host_workers_);
    request.header.host_slot = static_cast<uint8_t>(share.host_slot);
  }
  if (asleep_) request.header.flags |= kSleepAtOnce;
  request.header.layer = static_cast<uint32_t>(layer);
  request.header.in = wire;
  // 0 would be for ever.
  request.header.budget_us = static_cast<uint32_t>(
      std::clamp<int64_t>(absl::ToInt64Microseconds(std::min(budget, step_deadline_ - share.sent)), 1,
                          std::numeric_limits<uint32_t>::max()));
  request.x = x;
  request.rows = share.rows;
  request.parts = share.parts;
  request.entries = share.entries;
  EncodeDispatch(request, &frame_);
  totals_.dispatches += 1;
  totals_.parts += share.parts.size();
  share.sent_bytes = frame_.size();
  share.received_bytes = 0;
  TraceFlowBegin("dispatch", identity_.incarnation ^ share.dispatch_id);
  absl::Status status = transport.Send(share.dispatch_id, frame_, share.deadline);
  share.dispatch = clock_() - share.sent;
  return status;
}

absl::Status Dispatcher::Begin(int layer, WireDType wire, const Activations& x,
                               std::span<const SelectedExpert> selected, std::span<const uint8_t> skip,
                               std::shared_ptr<const RoutingTable> table) {
  const TraceSpan span("dispatch", {"layer", layer}, {"rows", x.rows});
  layer_ = layer;
  refused_ = false;
  table_ = std::move(table);
  Plan(x, selected, skip);
  PlanHost();
  totals_.rows += static_cast<uint64_t>(x.rows);
  replies_.clear();
  data_.assign(parts_.size(), nullptr);
  part_fault_.assign(parts_.size(), 0);
  sending_ = clock_();
  asleep_ = all_shared_memory_ && contention_.Asleep(sending_);
  if (asleep_) {
    SleepAtOnceFor(kSleepAtOnceTime);
    ++totals_.asleep;
  }
  for (size_t m = 0; m < shares_.size(); ++m) {
    if (shares_[m].parts.empty()) continue;
    if (absl::Status sent = Send(layer, wire, x, m); !sent.ok()) return Lose(m, sent);
  }
  begun_ = clock_();
  load_.Add(layer, selected, skip, begun_);  // while the workers are at it
  return absl::OkStatus();
}

void Dispatcher::CountDirect(int layer, int rows, std::span<const SelectedExpert> selected,
                             const RoutingTable& table, absl::Duration compute) {
  const size_t k = static_cast<size_t>(config_.experts_per_token);
  skipped_.assign(static_cast<size_t>(rows), 0);
  uint64_t counted = 0;
  for (size_t row = 0; row < skipped_.size(); ++row) {
    skipped_[row] = selected[row * k].expert < 0;
    counted += skipped_[row] ? 0 : 1;
  }
  totals_.dispatches += 1;
  totals_.rows += static_cast<uint64_t>(rows);
  totals_.parts += counted;
  totals_.rows_by_parts[1] += counted;
  totals_.exchange.Add(absl::ToDoubleSeconds(compute));
  load_.Add(layer, selected, skipped_, clock_());
  ExchangeReport report;
  report.worker = table.members[0].worker;
  report.rows = static_cast<int>(counted);
  report.round_trip = report.compute = compute;
  round_trips_[report.worker] += compute;
  pool_->ReportExchanges({&report, 1});
}

absl::Status Dispatcher::AcceptReply(FrameBytes frame, size_t member, size_t* missing) {
  MOEPOOL_ASSIGN_OR_RETURN(const FrameHeader header, DecodeHeader(frame.bytes));
  refused_ = header.kind == FrameKind::kRefusal;
  if (refused_) return DecodeRefusal(frame.bytes);
  MOEPOOL_ASSIGN_OR_RETURN(const ReplyView reply, DecodeReply(frame.bytes, limits_));
  Share& share = shares_[member];
  if (reply.header.router_id != identity_.router_id || reply.header.incarnation != identity_.incarnation ||
      reply.header.dispatch_id != share.dispatch_id || reply.header.layer != static_cast<uint32_t>(layer_)) {
    return absl::InvalidArgumentError(StrCat("reply: it answers dispatch ", reply.header.dispatch_id,
                                             ", layer ", reply.header.layer, ", dispatch ", share.dispatch_id,
                                             ", layer ", layer_, " of this router was asked for"));
  }
  const uint64_t end = uint64_t{reply.header.first_part} + reply.header.parts;
  if (end > share.parts.size()) {
    return absl::InvalidArgumentError(
        StrCat("reply: parts end at ", end, ", ", share.parts.size(), " were asked for"));
  }
  share.compute_us = std::max(share.compute_us, reply.header.budget_us);
  const size_t before = *missing;
  const size_t hidden = static_cast<size_t>(config_.hidden);
  for (size_t i = 0; i < reply.header.parts; ++i) {
    const size_t local = reply.header.first_part + i;
    if (share.have[local]) continue;  // a duplicate: the first answer stands
    share.have[local] = 1;
    *missing -= 1;
    const size_t part = static_cast<size_t>(share.part_of[local]);
    data_[part] = &reply.data[i * hidden];
    part_fault_[part] = reply.faults[i];
  }
  // A frame of nothing but duplicates is let go: a worker that repeats itself must not fill our memory.
  if (*missing < before) replies_.push_back(std::move(frame));
  return absl::OkStatus();
}

absl::Status Dispatcher::Receive(size_t member) {
  Share& share = shares_[member];
  ExpertTransport& transport = *table_->members[member].transport;
  const TraceSpan span("wait", {"layer", layer_},
                       {"worker", static_cast<int64_t>(table_->members[member].worker.value())});
  size_t missing = share.parts.size();
  while (missing > 0) {
    absl::StatusOr<FrameBytes> frame = transport.Receive(share.dispatch_id, share.deadline);
    if (!frame.ok()) return frame.status();
    share.received_bytes += frame->bytes.size();
    const size_t before = missing;
    MOEPOOL_RETURN_IF_ERROR(AcceptReply(*std::move(frame), member, &missing));
    // Frames that have arrived are taken after the deadline too; a flood of duplicates must not hold us up.
    if (missing == before && clock_() > share.deadline) {
      return absl::DeadlineExceededError(StrCat("duplicates past the deadline, ", missing, " of ",
                                                share.parts.size(), " parts are missing"));
    }
  }
  TraceFlowEnd("reply", identity_.incarnation ^ share.dispatch_id);
  transport.Forget(share.dispatch_id);
  share.dispatch_id = 0;
  share.received = clock_();
  return absl::OkStatus();
}

bool Dispatcher::Superseded() const {
  const std::shared_ptr<const RoutingTable> now = pool_->Routes();
  return now == nullptr || now->epoch != table_->epoch;
}

absl::Status Dispatcher::Lose(size_t member, const absl::Status& cause) {
  const RouteMember lost = table_->members[member];
  std::string what = "was lost";
  RetryReason reason = RetryReason::kRefusal;
  if (absl::IsDeadlineExceeded(cause)) reason = RetryReason::kTimeout;
  if (absl::IsUnavailable(cause)) reason = RetryReason::kConnection;
  // It did as it was told; where it stays silent it is lost, whoever waits.
  const bool vain = refused_ && absl::IsDeadlineExceeded(cause) && clock_() >= step_deadline_;
  if (vain) {
    what = "was asked too late";
  } else if (absl::IsNotFound(cause) && Superseded()) {
    what = "has newer routes";
    reason = RetryReason::kStaleRoutes;
  } else {
    totals_.losses += 1;
    pool_->ReportLoss(lost.worker, cause);
  }
  for (size_t m = 0; m < shares_.size(); ++m) {
    if (shares_[m].dispatch_id == 0) continue;
    table_->members[m].transport->Forget(shares_[m].dispatch_id);
    shares_[m].dispatch_id = 0;
  }
  replies_.clear();
  table_.reset();
  if (vain) return absl::CancelledError("the deadline of all sequences of the step has passed");
  totals_.retries[static_cast<size_t>(reason)] += 1;
  return absl::UnavailableError(
      StrCat("worker ", lost.worker.value(), " ", what, " in layer ", layer_, ": ", ToStd(cause.message())));
}

void Dispatcher::CountTime(absl::Time waiting, absl::Time end) {
  totals_.wait_seconds += absl::ToDoubleSeconds(end - waiting);
  totals_.exchange.Add(absl::ToDoubleSeconds(end - sending_));
  // Workers and trunk compute side by side, so that the longest of them is what would remain without an
  // exchange.
  absl::Duration computed = waiting - begun_;
  for (size_t m = 0; m < shares_.size(); ++m) {
    if (shares_[m].parts.empty()) continue;
    if (table_->members[m].transport->Name() == "in_process") return;  // one after another, in this thread
    computed = std::max(computed, absl::Microseconds(shares_[m].compute_us));
  }
  totals_.exchange_own.Add(std::max(0.0, absl::ToDoubleSeconds(end - sending_ - computed)));
  if (all_shared_memory_) contention_.Add(end - sending_, computed, end);
}

void Dispatcher::Report(absl::Time added) {
  if (round_trips_epoch_ != table_->epoch) {
    std::map<WorkerId, absl::Duration> kept;
    for (const RouteMember& member : table_->members) kept[member.worker] = round_trips_[member.worker];
    round_trips_ = std::move(kept);
    round_trips_epoch_ = table_->epoch;
  }
  reports_.clear();
  for (size_t m = 0; m < shares_.size(); ++m) {
    const Share& share = shares_[m];
    if (share.parts.empty()) continue;
    ExchangeReport& report = reports_.emplace_back();
    report.worker = table_->members[m].worker;
    report.rows = static_cast<int>(share.rows.size());
    report.dispatch = share.dispatch;
    report.round_trip = share.received - share.sent;
    report.compute = absl::Microseconds(share.compute_us);
    report.combine = added - share.received;
    report.sent_bytes = share.sent_bytes;
    report.received_bytes = share.received_bytes;
    round_trips_[report.worker] += report.round_trip;
  }
  pool_->ReportExchanges(reports_);
}

absl::Status Dispatcher::Finish(TrunkOps* ops, const float* shared, float* residual, RowFaults faults) {
  const absl::Time begin = clock_();
  for (size_t m = 0; m < shares_.size(); ++m) {
    if (shares_[m].dispatch_id == 0) continue;
    shares_[m].deadline += begin - begun_;  // what the trunk did meanwhile is not the workers' time
    if (absl::Status received = Receive(m); !received.ok()) return Lose(m, received);
  }
  const absl::Time end = clock_();
  CountTime(begin, end);
  for (size_t p = 0; p < parts_.size(); ++p) {
    if (part_fault_[p]) faults[row_of_[p]] = 1;
  }
  const TraceSpan span("combine", {"layer", layer_}, {"parts", static_cast<int64_t>(parts_.size())});
  ops->Combine({.parts = data_, .adds = adds_, .rows = rows_, .shared = shared, .hidden = config_.hidden},
               residual);
  Report(clock_());
  replies_.clear();
  table_.reset();
  return absl::OkStatus();
}

}  // namespace moepool
