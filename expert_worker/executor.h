// A worker's answer to a dispatch: checks the frame against the model, computes exactly the parts it lists,
// and replies with frames of whole parts, or with one refusal. Never fails in silence: each frame whose
// header can be read is answered. A dispatch whose time runs out while another one is computed is refused,
// not begun.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "common/backend/backend.h"
#include "common/base/mutex.h"
#include "common/transport/expert_transport.h"
#include "common/transport/frame.h"
#include "expert_worker/expert_store.h"

namespace moepool {

// Rows of a dispatch that a worker takes memory for before it serves: a router's --step-tokens by default.
inline constexpr int kReservedRows = 512;

// The largest dispatch of `rows` rows.
LargestCall LargestDispatch(const ModelConfig& config, int rows);

struct ExecutorStats {
  uint64_t dispatches = 0;  // computed
  uint64_t refusals = 0;    // those too late among them
  uint64_t too_late = 0;    // not begun, as their time had run out
  uint64_t unreadable = 0;  // frames without a header that could be answered
  uint64_t rows = 0;
  double busy_seconds = 0;
};

// Thread-safe; one dispatch runs at a time, because the device's operations take one caller.
class Executor {
 public:
  // Both outlive the executor.
  Executor(Backend* backend, const ExpertStore* store, const FrameLimits& limits,
           std::function<absl::Time()> clock = absl::Now);

  // As FrameHandler.
  void Handle(std::span<const uint8_t> frame, const FrameWriter& write);
  // As DeviceFrameHandler, where the backend computes on the carrier's GPU. Parts stay in its memory unless
  // their frame is small or there is none left for them.
  void Handle(const FrameBytes& frame, DeviceWriter* writer);
  ExecutorStats stats() const;

 private:
  // `writer` may be null.
  void Compute(const FrameBytes& frame, const FrameWriter& write, DeviceWriter* writer);
  // A refusal is returned; what was computed is in answer_ or kept_, and in faults_.
  absl::Status Run(const DispatchView& view, DeviceWriter* writer) REQUIRES(run_mutex_);
  absl::Status Answer(const DispatchView& view, absl::Duration computed, const FrameWriter& write,
                      DeviceWriter* writer) REQUIRES(run_mutex_);
  // Memory for the parts of `view`, [parts, hidden]: kept_ or out_.
  absl::StatusOr<float*> TakeOut(const DispatchView& view, DeviceWriter* writer) REQUIRES(run_mutex_);

  Backend* const backend_;
  const ExpertStore* const store_;
  const FrameLimits limits_;
  const std::function<absl::Time()> clock_;
  Mutex run_mutex_;
  std::unique_ptr<Buffer> out_ GUARDED_BY(run_mutex_);    // [parts, hidden]
  const float* answer_ GUARDED_BY(run_mutex_) = nullptr;  // the same as the host reads it
  DeviceBytes kept_ GUARDED_BY(run_mutex_);               // in the place of both: goes as it is
  std::vector<uint8_t> faults_ GUARDED_BY(run_mutex_);    // [parts]
  std::vector<ExpertPart> parts_ GUARDED_BY(run_mutex_);
  std::vector<uint8_t> reply_ GUARDED_BY(run_mutex_);
  mutable Mutex stats_mutex_;
  ExecutorStats stats_ GUARDED_BY(stats_mutex_);
};

}  // namespace moepool
