// The answers of a worker as a router gets them: frames through the inbox of every carrier and the
// dispatcher's checks. The input is a list of frames, each behind its length in 16 bits.
#include <memory>
#include <utility>
#include <vector>

#include "common/base/status_macros.h"
#include "common/transport/reply_inbox.h"
#include "router/dispatch.h"
#include "tests/fuzz/fuzz_frames.h"
#include "tests/fuzz/fuzz_input.h"

namespace moepool {
namespace {

// Delivers the input's frames on the first Receive; when they are used up, the worker is lost.
class Scripted : public ExpertTransport {
 public:
  explicit Scripted(FuzzInput input) : input_(input), inbox_({}) {}
  std::string_view Name() const override { return "scripted"; }
  absl::Status Send(uint64_t dispatch_id, std::span<const uint8_t>, absl::Time deadline) override {
    return inbox_.Begin(dispatch_id, deadline);
  }
  absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time deadline) override {
    FrameBytes frame;
    while (true) {
      auto there = inbox_.TryReceive(dispatch_id, &frame);
      if (!there.ok()) return there.status();
      if (*there) return frame;
      if (input_.empty()) {
        inbox_.Fail(absl::UnavailableError("the input is used up"));
        return inbox_.Receive(dispatch_id, deadline);
      }
      const size_t bytes = input_.Take<uint16_t>();
      const std::string_view taken = input_.TakeBytes(bytes);
      // A loss stays with the inbox, which says so above.
      inbox_.Deliver(CopyFrame(std::span(reinterpret_cast<const uint8_t*>(taken.data()), taken.size())))
          .IgnoreError();
    }
  }
  void Forget(uint64_t dispatch_id) override { inbox_.Forget(dispatch_id); }
  void Close(const absl::Status& cause) override { inbox_.Fail(cause); }
  bool Lost() const override { return inbox_.lost(); }

 private:
  FuzzInput input_;
  ReplyInbox inbox_;
};

class OneWorkerPool : public ExpertPool {
 public:
  OneWorkerPool(std::shared_ptr<ExpertTransport> transport, const ModelConfig& config) {
    auto table = std::make_shared<RoutingTable>();
    table->epoch = 1;
    table->members.push_back({WorkerId(1), std::move(transport)});
    table->member.assign(static_cast<size_t>(config.layers) * config.experts, 0);
    table_ = std::move(table);
  }
  std::shared_ptr<const RoutingTable> Routes() override { return table_; }
  std::string WaitingFor() override { return ""; }
  void ReportLoss(WorkerId, const absl::Status&) override { ++losses_; }
  void ReportExchanges(std::span<const ExchangeReport> reports) override {
    round_trips_ += static_cast<int>(reports.size());
  }
  std::vector<PoolWorkerInfo> Workers() override { return {}; }

  int losses() const { return losses_; }
  int round_trips() const { return round_trips_; }

 private:
  std::shared_ptr<const RoutingTable> table_;
  int losses_ = 0;
  int round_trips_ = 0;
};

}  // namespace
}  // namespace moepool

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moepool;
  static const ModelConfig* const config =
      new ModelConfig(MakeSyntheticSource(FuzzModel()).value()->Config());
  static Backend* const backend = MakeBackend({.threads = 1}).value().release();
  OneWorkerPool pool(std::make_shared<Scripted>(FuzzInput(data, size)), *config);
  Dispatcher dispatcher(*config, kFuzzDigest, &pool, {}, {.router_id = 1, .incarnation = 1});

  // Three rows; 0 and 1, 0 and 3, 2 and 3: parts of one and of two experts.
  const std::vector<SelectedExpert> selected = {{0, 0.5f}, {1, 0.5f}, {0, 0.25f}, {3, 0.75f}, {2, 1}, {3, 0}};
  std::vector<float> x(3 * static_cast<size_t>(config->hidden), 1);
  const std::vector<uint8_t> skip(3, 0);
  const std::vector<float> before(x.size(), 2);
  std::vector<float> residual = before;
  std::vector<uint8_t> faults(3, 0);
  Activations rows;
  rows.rows = 3;
  rows.cols = config->hidden;
  rows.f32 = x.data();
  MOEPOOL_CHECK(
      dispatcher.Begin({.layer = 1, .x = rows, .selected = selected, .skip = skip}, pool.Routes()).ok());
  const absl::Status finished = dispatcher.Finish(0, &backend->Trunk(), nullptr, residual.data(), faults);
  if (finished.ok()) {
    MOEPOOL_CHECK(pool.round_trips() == 1 && pool.losses() == 0);
  } else {
    MOEPOOL_CHECK(absl::IsUnavailable(finished) && pool.losses() == 1 && residual == before);
  }
  return 0;
}
