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

absl::Status Dispatcher::Send(const GatedRows& rows, Exchange* exchange, size_t member) {
  ExchangeShare& share = exchange->shares[member];
  const RouteMember& to = exchange->table->members[member];
  const TraceSpan span("send", {"worker", static_cast<int64_t>(to.worker.value())},
                       {"rows", static_cast<int64_t>(share.rows.size())},
                       {"parts", static_cast<int64_t>(share.parts.size())});
  const absl::Duration budget = timeouts_.base + timeouts_.per_row * static_cast<double>(share.rows.size());
  share.sent = clock_();
  share.deadline = share.sent + budget;
  share.dispatch_id = next_dispatch_++;
  share.have.assign(share.parts.size(), 0);
  share.compute_us = 0;
  share.behind = absl::ZeroDuration();

  DispatchRequest request;
  request.header.router_id = identity_.router_id;
  request.header.incarnation = identity_.incarnation;
  request.header.dispatch_id = share.dispatch_id;
  request.header.model_digest = limits_.model_digest;
  request.header.epoch = exchange->table->epoch;
  if (exchange->host_workers > 0 && to.on_host) {
    request.header.host_workers = static_cast<uint8_t>(exchange->host_workers);
    request.header.host_slot = static_cast<uint8_t>(share.host_slot);
  }
  if (exchange->asleep) request.header.flags |= kSleepAtOnce;
  request.header.layer = static_cast<uint32_t>(rows.layer);
  request.header.micro_batch = static_cast<uint32_t>(rows.micro_batch);
  request.header.in = rows.wire;
  // 0 would be for ever.
  request.header.budget_us = static_cast<uint32_t>(
      std::clamp<int64_t>(absl::ToInt64Microseconds(std::min(budget, step_deadline_ - share.sent)), 1,
                          std::numeric_limits<uint32_t>::max()));
  request.x = rows.x;
  request.rows = share.rows;
  request.parts = share.parts;
  request.entries = share.entries;
  const bool packed = share.packed.bytes > 0;
  (packed ? EncodeDispatchHead : EncodeDispatch)(request, &frame_);
  totals_.dispatches += 1;
  totals_.packed += packed ? 1 : 0;
  totals_.parts += share.parts.size();
  share.sent_bytes = frame_.size() + share.packed.bytes;
  share.received_bytes = 0;
  TraceFlowBegin("dispatch", identity_.incarnation ^ share.dispatch_id);
  absl::Status status = packed
                            ? to.transport->device_sender()->SendRows(
                                  share.dispatch_id, frame_, std::exchange(share.packed, {}), share.deadline)
                            : to.transport->Send(share.dispatch_id, frame_, share.deadline);
  share.dispatch = clock_() - share.sent;
  return status;
}

bool Dispatcher::WantsHostRows(const RoutingTable& table, WireDType wire, int rows, int hidden) {
  // Of so many frames' rows, one's share may well be small.
  constexpr size_t kSmallFrames = 4;
  const size_t bytes = WireRowBytes(wire, static_cast<size_t>(rows), static_cast<size_t>(hidden));
  return std::any_of(table.members.begin(), table.members.end(), [&](const RouteMember& member) {
    const DeviceSender* const sender = member.transport->device_sender();
    return sender == nullptr || bytes <= kSmallFrames * sender->small_frame_bytes();
  });
}

void Dispatcher::Pack(Exchange* exchange, GatedRows* rows) {
  const size_t hidden = static_cast<size_t>(config_.hidden);
  const bool int8 = rows->wire == WireDType::kInt8Block32;
  const bool on_host = (int8 ? static_cast<const void*>(rows->x.q) : rows->x.f32) != nullptr;
  bool all_packed = true;
  for (size_t m = 0; m < exchange->shares.size(); ++m) {
    ExchangeShare& share = exchange->shares[m];
    DeviceSender* const sender = exchange->table->members[m].transport->device_sender();
    if (share.parts.empty()) continue;
    const size_t head = DispatchHeadBytes(share.parts.size(), share.entries.size());
    const size_t bytes = WireRowBytes(rows->wire, share.rows.size(), hidden);
    const bool small = sender != nullptr && head + bytes <= sender->small_frame_bytes();
    if (rows->ops != nullptr && sender != nullptr && !(small && on_host)) {
      if (absl::StatusOr<DeviceBytes> taken = sender->TakeDevice(head, bytes); taken.ok()) {
        share.packed = *std::move(taken);
        rows->ops->Pack(rows->on_device, share.rows, reinterpret_cast<std::byte*>(share.packed.data));
      }
    }
    all_packed = all_packed && share.packed.bytes > 0;
  }
  if (on_host || all_packed) return;
  const size_t elements = static_cast<size_t>(rows->x.rows) * hidden;
  const Activations& x = rows->on_device;
  Fetched wanted[] = {{int8 ? static_cast<const void*>(x.q) : x.f32, elements * (int8 ? 1 : sizeof(float))},
                      {x.scale, int8 ? elements / 32 * sizeof(float) : 0}};
  rows->ops->Fetch(wanted);
  rows->x.q = int8 ? static_cast<int8_t*>(wanted[0].host) : nullptr;
  rows->x.scale = int8 ? wanted[1].f32() : nullptr;
  rows->x.f32 = int8 ? nullptr : wanted[0].f32();
}

absl::Status Dispatcher::Begin(const GatedRows& gated, std::shared_ptr<const RoutingTable> table) {
  GatedRows rows = gated;
  const TraceSpan span("dispatch", {"layer", rows.layer}, {"rows", rows.x.rows},
                       {"micro_batch", rows.micro_batch});
  Exchange& exchange = exchanges_[static_cast<size_t>(rows.micro_batch)];
  MOEPOOL_CHECK(exchange.table == nullptr);
  exchange.micro_batch = rows.micro_batch;
  refused_ = false;
  exchange.Plan(config_, rows.layer, rows.x.rows, rows.selected, rows.skip, std::move(table));
  totals_.rows += static_cast<uint64_t>(rows.x.rows);
  for (const CombineRow& row : exchange.rows) {
    const size_t parts = static_cast<size_t>(row.parts_end - row.parts_begin);
    ++totals_.rows_by_parts[std::min(parts, DispatchTotals::kMostParts)];
  }
  exchange.sending = clock_();
  exchange.asleep = exchange.all_shared_memory && contention_.Asleep(exchange.sending);
  if (exchange.asleep) {
    SleepAtOnceFor(kSleepAtOnceTime);
    ++totals_.asleep;
  }
  Pack(&exchange, &rows);
  // Those from the host first, while the device packs the others.
  for (const bool packed : {false, true}) {
    bool waited = false;
    for (size_t m = 0; m < exchange.shares.size(); ++m) {
      const ExchangeShare& share = exchange.shares[m];
      if (share.parts.empty() || (share.packed.bytes > 0) != packed) continue;
      if (packed && !std::exchange(waited, true)) rows.ops->Fetch({});
      if (absl::Status sent = Send(rows, &exchange, m); !sent.ok()) return Lose(exchange, m, sent);
    }
  }
  exchange.begun = clock_();
  load_.Add(rows.layer, rows.selected, rows.skip, exchange.begun);  // while the workers are at it
  return absl::OkStatus();
}

void Dispatcher::EndStep() {
  for (Exchange& exchange : exchanges_) exchange.combining.clear();
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

absl::Status Dispatcher::AcceptReply(Exchange* exchange, FrameBytes frame, size_t member, size_t* missing) {
  MOEPOOL_ASSIGN_OR_RETURN(const FrameHeader header, DecodeHeader(frame.bytes, frame.device.size()));
  refused_ = header.kind == FrameKind::kRefusal;
  if (refused_) return DecodeRefusal(frame.bytes);
  MOEPOOL_ASSIGN_OR_RETURN(const ReplyView reply, DecodeReply(frame, limits_));
  ExchangeShare& share = exchange->shares[member];
  if (reply.header.router_id != identity_.router_id || reply.header.incarnation != identity_.incarnation ||
      reply.header.dispatch_id != share.dispatch_id ||
      reply.header.layer != static_cast<uint32_t>(exchange->layer)) {
    return absl::InvalidArgumentError(StrCat("reply: it answers dispatch ", reply.header.dispatch_id,
                                             ", layer ", reply.header.layer, ", dispatch ", share.dispatch_id,
                                             ", layer ", exchange->layer, " of this router was asked for"));
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
    exchange->data[part] = &reply.data[i * hidden];
    exchange->on_device[part] = reply.on_device ? 1 : 0;
    exchange->part_fault[part] = reply.faults[i];
  }
  // A frame of nothing but duplicates is let go: a worker that repeats itself must not fill our memory.
  if (*missing < before) exchange->replies.push_back(std::move(frame));
  return absl::OkStatus();
}

absl::Status Dispatcher::Receive(Exchange* exchange, size_t member) {
  ExchangeShare& share = exchange->shares[member];
  const RouteMember& from = exchange->table->members[member];
  const TraceSpan span("wait", {"layer", exchange->layer},
                       {"worker", static_cast<int64_t>(from.worker.value())},
                       {"micro_batch", exchange->micro_batch});
  size_t missing = share.parts.size();
  while (missing > 0) {
    absl::StatusOr<FrameBytes> frame = from.transport->Receive(share.dispatch_id, share.deadline);
    if (!frame.ok()) return frame.status();
    share.received_bytes += frame->size();
    const size_t before = missing;
    MOEPOOL_RETURN_IF_ERROR(AcceptReply(exchange, *std::move(frame), member, &missing));
    // Frames that have arrived are taken after the deadline too; a flood of duplicates must not hold us up.
    if (missing == before && clock_() > share.deadline) {
      return absl::DeadlineExceededError(StrCat("duplicates past the deadline, ", missing, " of ",
                                                share.parts.size(), " parts are missing"));
    }
  }
  TraceFlowEnd("reply", identity_.incarnation ^ share.dispatch_id);
  from.transport->Forget(share.dispatch_id);
  share.received = clock_();
  for (Exchange& other : exchanges_) {
    if (&other != exchange) exchange->HoldUp(member, &other);
  }
  share.dispatch_id = 0;
  return absl::OkStatus();
}

bool Dispatcher::Superseded(const RoutingTable& table) const {
  const std::shared_ptr<const RoutingTable> now = pool_->Routes();
  return now == nullptr || now->epoch != table.epoch;
}

void Dispatcher::GiveUp() {
  for (Exchange& exchange : exchanges_) {
    if (exchange.table == nullptr) continue;
    for (size_t m = 0; m < exchange.shares.size(); ++m) {
      ExchangeShare& share = exchange.shares[m];
      if (share.dispatch_id != 0) exchange.table->members[m].transport->Forget(share.dispatch_id);
      share.dispatch_id = 0;
    }
    exchange.Clear();
  }
}

absl::Status Dispatcher::Lose(const Exchange& exchange, size_t member, const absl::Status& cause) {
  const RouteMember lost = exchange.table->members[member];
  const int layer = exchange.layer;
  std::string what = "was lost";
  RetryReason reason = RetryReason::kRefusal;
  if (absl::IsDeadlineExceeded(cause)) reason = RetryReason::kTimeout;
  if (absl::IsUnavailable(cause)) reason = RetryReason::kConnection;
  // It did as it was told; where it stays silent it is lost, whoever waits.
  const bool vain = refused_ && absl::IsDeadlineExceeded(cause) && clock_() >= step_deadline_;
  if (vain) {
    what = "was asked too late";
  } else if (absl::IsNotFound(cause) && Superseded(*exchange.table)) {
    what = "has newer routes";
    reason = RetryReason::kStaleRoutes;
  } else {
    totals_.losses += 1;
    pool_->ReportLoss(lost.worker, cause);
  }
  GiveUp();
  if (vain) return absl::CancelledError("the deadline of all sequences of the step has passed");
  totals_.retries[static_cast<size_t>(reason)] += 1;
  return absl::UnavailableError(
      StrCat("worker ", lost.worker.value(), " ", what, " in layer ", layer, ": ", ToStd(cause.message())));
}

void Dispatcher::CountTime(const Exchange& exchange, absl::Time waiting, absl::Time end) {
  const absl::Duration whole = end - exchange.sending;
  totals_.wait_seconds += absl::ToDoubleSeconds(end - waiting);
  totals_.exchange.Add(absl::ToDoubleSeconds(whole));
  // Workers and trunk compute side by side, so that the longest of them is what would remain without an
  // exchange.
  absl::Duration computed;
  absl::Duration busy = waiting - exchange.begun;
  bool in_turn = false;  // in this thread, one after another
  for (size_t m = 0; m < exchange.shares.size(); ++m) {
    const ExchangeShare& share = exchange.shares[m];
    if (share.parts.empty()) continue;
    in_turn = in_turn || exchange.table->members[m].transport->Name() == "in_process";
    computed = std::max(computed, absl::Microseconds(share.compute_us));
    busy = std::max(busy, share.behind + absl::Microseconds(share.compute_us));
  }
  totals_.computed_seconds += absl::ToDoubleSeconds(computed);
  if (in_turn) return;
  totals_.exchange_own.Add(std::max(0.0, absl::ToDoubleSeconds(whole - busy)));
  if (exchange.all_shared_memory) contention_.Add(whole, busy, end);
}

void Dispatcher::Report(const Exchange& exchange, absl::Time added) {
  const RoutingTable& table = *exchange.table;
  if (round_trips_epoch_ != table.epoch) {
    std::map<WorkerId, absl::Duration> kept;
    for (const RouteMember& member : table.members) kept[member.worker] = round_trips_[member.worker];
    round_trips_ = std::move(kept);
    round_trips_epoch_ = table.epoch;
  }
  reports_.clear();
  for (size_t m = 0; m < exchange.shares.size(); ++m) {
    const ExchangeShare& share = exchange.shares[m];
    if (share.parts.empty()) continue;
    ExchangeReport& report = reports_.emplace_back();
    report.worker = table.members[m].worker;
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

absl::Status Dispatcher::Finish(int micro_batch, TrunkOps* ops, const float* shared, float* residual,
                                RowFaults faults) {
  Exchange& exchange = exchanges_[static_cast<size_t>(micro_batch)];
  const absl::Time begin = clock_();
  for (size_t m = 0; m < exchange.shares.size(); ++m) {
    ExchangeShare& share = exchange.shares[m];
    if (share.dispatch_id == 0) continue;
    share.deadline += begin - exchange.begun;  // what the trunk did meanwhile is not the workers' time
    if (absl::Status received = Receive(&exchange, m); !received.ok()) return Lose(exchange, m, received);
  }
  CountTime(exchange, begin, clock_());
  for (size_t p = 0; p < exchange.parts.size(); ++p) {
    if (exchange.part_fault[p]) faults[exchange.row_of[p]] = 1;
  }
  const TraceSpan span("combine", {"layer", exchange.layer},
                       {"parts", static_cast<int64_t>(exchange.parts.size())},
                       {"micro_batch", exchange.micro_batch});
  ops->Combine({.parts = exchange.data,
                .adds = exchange.adds,
                .rows = exchange.rows,
                .shared = shared,
                .hidden = config_.hidden,
                .on_device = exchange.on_device},
               residual);
  Report(exchange, clock_());
  exchange.Clear();
  return absl::OkStatus();
}

}  // namespace moepool
