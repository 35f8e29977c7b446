#include "expert_worker/executor.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/awake_wait.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/trace.h"

namespace moepool {
namespace {

// A part takes its row and a byte of faults, which as a whole are padded to 8.
size_t PartsAFrame(size_t hidden, size_t frame_bytes) {
  constexpr size_t kMost = 1 << 16;  // and their faults
  return std::clamp<size_t>((frame_bytes - sizeof(FrameHeader) - 8) / (hidden * sizeof(float) + 1), 1, kMost);
}

// Goes on from dispatch to dispatch, and ends by itself where their router does.
constexpr std::chrono::milliseconds kSleepAtOnceTime(100);

}  // namespace

LargestCall LargestDispatch(const ModelConfig& config, int rows) {
  LargestCall call = {.rows = rows, .experts_per_row = config.experts_per_token};
  for (int e = 0; e < config.experts; ++e) call.ffn = std::max(call.ffn, ExpertFfn(config, e));
  return call;
}

Executor::Executor(Backend* backend, const ExpertStore* store, const FrameLimits& limits,
                   std::function<absl::Time()> clock)
    : backend_(backend), store_(store), limits_(limits), clock_(std::move(clock)) {}

absl::StatusOr<float*> Executor::TakeOut(const DispatchView& view, DeviceWriter* writer) {
  const size_t bytes = view.parts.size() * view.header.hidden * sizeof(float);
  const size_t head = sizeof(FrameHeader) + view.parts.size();
  kept_ = {};
  if (writer != nullptr && head + bytes > writer->small_frame_bytes()) {
    const size_t faults = PartsAFrame(view.header.hidden, kMaxDeviceReplyBytes);
    absl::StatusOr<DeviceBytes> taken = writer->TakeDevice(sizeof(FrameHeader) + faults, bytes);
    if (taken.ok()) kept_ = *std::move(taken);
  }
  if (kept_.data != nullptr) return reinterpret_cast<float*>(kept_.data);
  if (out_ == nullptr || out_->bytes() < bytes) {
    out_ = nullptr;
    MOEPOOL_ASSIGN_OR_RETURN(out_, backend_->Allocate(bytes));
  }
  return out_->f32();
}

absl::Status Executor::Run(const DispatchView& view, DeviceWriter* writer) {
  const int layer = static_cast<int>(view.header.layer);
  const std::shared_ptr<const LayerTable> table = store_->Layer(layer);
  for (const ExpertEntry& entry : view.entries) {
    const ExpertWeights* weights = table->experts[entry.expert];
    if (weights == nullptr) {
      return absl::NotFoundError(StrCat("expert ", entry.expert, " of layer ", layer,
                                        " is not held here (epoch ", view.header.epoch, ")"));
    }
    for (const Matrix* matrix : {weights->gate.get(), weights->up.get()}) {
      if (matrix == nullptr || Info(matrix->dtype()).quantized == (view.x.q != nullptr)) continue;
      return absl::InvalidArgumentError(
          StrCat("expert ", entry.expert, " of layer ", layer, " has ", Info(matrix->dtype()).name,
                 " weights; the dispatch carries rows in ", view.x.q != nullptr ? "int8 blocks" : "f32"));
    }
  }
  parts_.clear();
  for (size_t p = 0; p < view.parts.size(); ++p) {
    const size_t end = p + 1 < view.parts.size() ? view.parts[p + 1].begin : view.entries.size();
    parts_.push_back({static_cast<int32_t>(view.parts[p].row), static_cast<int32_t>(view.parts[p].begin),
                      static_cast<int32_t>(end)});
  }
  MOEPOOL_ASSIGN_OR_RETURN(float* const out, TakeOut(view, writer));
  faults_.assign(view.parts.size(), 0);
  const ExpertBatch batch = {.x = view.x,
                             .parts = parts_,
                             .entries = view.entries,
                             .host_callers = view.header.host_workers,
                             .host_slot = view.header.host_slot,
                             .host_rows = !view.on_device};
  ExpertOps& ops = backend_->Experts();
  ops.Run(table->experts, batch, out, faults_);
  // Waits for the parts too where they stay.
  Fetched answer = {out, kept_.data != nullptr ? 0 : view.parts.size() * view.header.hidden * sizeof(float)};
  ops.Fetch({&answer, 1});
  answer_ = answer.f32();
  return absl::OkStatus();
}

absl::Status Executor::Answer(const DispatchView& view, absl::Duration computed, const FrameWriter& write,
                              DeviceWriter* writer) {
  FrameHeader header = view.header;
  header.budget_us = static_cast<uint32_t>(
      std::min<int64_t>(absl::ToInt64Microseconds(computed), std::numeric_limits<uint32_t>::max()));
  const size_t hidden = view.header.hidden;
  const bool stays = kept_.data != nullptr;
  const size_t parts_a_frame = PartsAFrame(hidden, stays ? kMaxDeviceReplyBytes : kMaxReplyFrameBytes);
  for (size_t first = 0; first < view.parts.size(); first += parts_a_frame) {
    const size_t count = std::min(parts_a_frame, view.parts.size() - first);
    EncodeReplyHead(header, static_cast<uint32_t>(first),
                    std::span<const uint8_t>(faults_).subspan(first, count), &reply_);
    if (stays) {
      const size_t row_bytes = hidden * sizeof(float);
      MOEPOOL_RETURN_IF_ERROR(
          writer->WriteParts(reply_, {kept_.data + first * row_bytes, count * row_bytes, kept_.owner}));
      continue;
    }
    const std::span<const float> data(answer_ + first * hidden, count * hidden);
    MOEPOOL_RETURN_IF_ERROR(
        write({reply_, {reinterpret_cast<const uint8_t*>(data.data()), data.size_bytes()}}));
  }
  return absl::OkStatus();
}

void Executor::Handle(std::span<const uint8_t> frame, const FrameWriter& write) {
  Compute(FrameBytes{frame}, write, nullptr);
}

void Executor::Handle(const FrameBytes& frame, DeviceWriter* writer) {
  Compute(
      frame, [writer](const FramePieces& answer) { return writer->Write(answer); }, writer);
}

void Executor::Compute(const FrameBytes& frame, const FrameWriter& write, DeviceWriter* writer) {
  const absl::StatusOr<FrameHeader> header = DecodeHeader(frame.bytes, frame.device.size());
  if (!header.ok()) {
    MutexLock lock(&stats_mutex_);
    ++stats_.unreadable;
    return;
  }
  const absl::Time arrived = clock_();
  MutexLock run_lock(&run_mutex_);
  const TraceSpan span("experts", {"layer", header->layer}, {"rows", header->rows}, {"parts", header->parts});
  TraceFlowEnd("dispatch", header->incarnation ^ header->dispatch_id);
  const absl::Time begin = clock_();
  TraceSpan decode("decode frame");
  const absl::StatusOr<DispatchView> view = DecodeDispatch(frame, limits_);
  decode.End();
  if (view.ok() && (header->flags & kSleepAtOnce) != 0) SleepAtOnceFor(kSleepAtOnceTime);
  absl::Status status = view.status();
  const bool too_late =
      view.ok() && header->budget_us > 0 && begin - arrived >= absl::Microseconds(header->budget_us);
  if (too_late) {
    status = absl::DeadlineExceededError(StrCat("the dispatch waited for ",
                                                absl::ToInt64Microseconds(begin - arrived), " us, and had ",
                                                header->budget_us, " us"));
  } else if (view.ok()) {
    status = Run(*view, writer);
  }
  const absl::Duration computed = clock_() - begin;
  {
    MutexLock lock(&stats_mutex_);
    stats_.busy_seconds += absl::ToDoubleSeconds(computed);
    if (status.ok()) {
      ++stats_.dispatches;
      stats_.rows += header->rows;
    } else {
      ++stats_.refusals;
      if (too_late) ++stats_.too_late;
    }
  }
  const TraceSpan reply("reply");
  TraceFlowBegin("reply", header->incarnation ^ header->dispatch_id);
  // A failed write means that the router is gone, which the carrier sees too.
  if (status.ok()) {
    Answer(*view, computed, write, writer).IgnoreError();
  } else {
    EncodeRefusal(*header, status, &reply_);
    write(reply_).IgnoreError();
  }
  kept_ = {};
}

ExecutorStats Executor::stats() const {
  MutexLock lock(&stats_mutex_);
  return stats_;
}

}  // namespace moepool
