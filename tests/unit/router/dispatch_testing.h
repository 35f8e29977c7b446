// Scripted workers for the dispatcher: a model of a few numbers, the definition of its sums, and transports
// that answer as a test says.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/backend/backend.h"
#include "common/transport/reply_inbox.h"
#include "router/dispatch.h"

namespace moepool {

using Frame = std::vector<uint8_t>;

inline constexpr int kHidden = 5;  // no whole block, and no whole vector
inline constexpr int kLayers = 3;
inline constexpr int kExperts = 13;
inline constexpr int kPerToken = 4;
inline constexpr int kLayer = 1;
inline constexpr uint64_t kDigest = 0xD1D2D3D4;
inline constexpr FrameLimits kLimits{kHidden, kLayers, kExperts, kDigest};
inline constexpr RouterIdentity kIdentity{77, 88};

// What expert e makes of column c of a row, before its weight. Rounds, so that the order of additions shows.
inline float Leaf(int expert, std::span<const float> row, int c) {
  return row[static_cast<size_t>(c)] * (1.0f + 0.37f * static_cast<float>(expert)) / 3.0f;
}

// The sum under node (level, index) by the definition: of both children where both hold a selected expert,
// otherwise that of the one that does. False where none is selected.
inline bool TreeSum(uint32_t level, int32_t index, std::span<const ExpertEntry> entries,
                    std::span<const float> row, std::vector<float>* sum) {
  if (level == 0) {
    for (const ExpertEntry& entry : entries) {
      if (entry.expert != index) continue;
      sum->resize(kHidden);
      for (int c = 0; c < kHidden; ++c)
        (*sum)[static_cast<size_t>(c)] = entry.weight * Leaf(entry.expert, row, c);
      return true;
    }
    return false;
  }
  std::vector<float> right;
  const bool has_left = TreeSum(level - 1, 2 * index, entries, row, sum);
  const bool has_right = TreeSum(level - 1, 2 * index + 1, entries, row, &right);
  if (!has_right) return has_left;
  if (!has_left) {
    *sum = right;
    return true;
  }
  for (size_t c = 0; c < right.size(); ++c) (*sum)[c] += right[c];
  return true;
}

// A worker's computed answer to a dispatch.
struct Answer {
  FrameHeader header;
  std::vector<float> data;
  std::vector<uint8_t> faults;

  explicit Answer(const Frame& dispatch) {
    const FrameBytes aligned = CopyFrame(dispatch);
    const auto view = DecodeDispatch(aligned.bytes, kLimits);
    EXPECT_TRUE(view.ok()) << view.status();
    header = view->header;
    faults.resize(view->parts.size());
    for (size_t p = 0; p < view->parts.size(); ++p) {
      const WirePart& part = view->parts[p];
      const size_t end = p + 1 < view->parts.size() ? view->parts[p + 1].begin : view->entries.size();
      std::vector<float> sum;
      TreeSum(part.level, part.index, view->entries.subspan(part.begin, end - part.begin),
              {view->x.f32 + part.row * kHidden, kHidden}, &sum);
      data.insert(data.end(), sum.begin(), sum.end());
    }
  }
  size_t parts() const { return faults.size(); }
  Frame Reply(size_t first, size_t count) const {
    Frame frame;
    EncodeReply(header, static_cast<uint32_t>(first),
                std::span(data).subspan(first * kHidden, count * kHidden),
                std::span(faults).subspan(first, count), &frame);
    return frame;
  }
  Frame All() const { return Reply(0, parts()); }
};

// Says what arrives for a dispatch: frames, and then a status where the router asks for more.
struct Script {
  std::vector<Frame> frames;
  absl::Status then = absl::DeadlineExceededError("no reply by the deadline");
};
using Worker = std::function<Script(const Frame& dispatch)>;

inline Script Honest(const Frame& dispatch) { return {{Answer(dispatch).All()}}; }

class ScriptedTransport : public ExpertTransport {
 public:
  std::string_view Name() const override { return name; }
  absl::Status Send(uint64_t dispatch_id, std::span<const uint8_t> frame, absl::Time) override {
    if (!send_status.ok()) return send_status;
    sent.emplace_back(frame.begin(), frame.end());
    EXPECT_TRUE(open_.try_emplace(dispatch_id, worker(sent.back())).second) << "an id is used twice";
    return absl::OkStatus();
  }
  absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time) override {
    Script& script = open_.at(dispatch_id);
    if (on_receive) on_receive(dispatch_id);
    if (script.frames.empty()) return script.then;
    const FrameBytes frame = CopyFrame(script.frames.front());
    script.frames.erase(script.frames.begin());
    most_kept = std::max(most_kept, kept());
    received_.push_back(frame.owner);
    return frame;
  }
  void Forget(uint64_t dispatch_id) override { open_.erase(dispatch_id); }
  void Close(const absl::Status&) override {}
  bool Lost() const override { return false; }

  size_t open() const { return open_.size(); }
  // Of the frames received, those whose bytes the router still holds.
  size_t kept() const {
    return static_cast<size_t>(std::count_if(received_.begin(), received_.end(),
                                             [](const auto& frame) { return !frame.expired(); }));
  }

  std::string name = "scripted";
  Worker worker = Honest;
  std::function<void(uint64_t dispatch_id)> on_receive;
  absl::Status send_status;
  std::vector<Frame> sent;
  size_t most_kept = 0;  // at any time when another was asked for

 private:
  std::map<uint64_t, Script> open_;
  std::vector<std::weak_ptr<const void>> received_;
};

class RecordingPool : public ExpertPool {
 public:
  std::shared_ptr<const RoutingTable> Routes() override { return routes; }
  std::string WaitingFor() override { return ""; }
  void ReportLoss(WorkerId worker, const absl::Status& cause) override {
    losses.push_back(worker.value());
    causes.push_back(cause);
  }
  void ReportExchanges(std::span<const ExchangeReport> of_layer) override {
    reports.insert(reports.end(), of_layer.begin(), of_layer.end());
  }
  std::vector<PoolWorkerInfo> Workers() override { return {}; }

  std::shared_ptr<const RoutingTable> routes;
  std::vector<uint64_t> losses;
  std::vector<absl::Status> causes;
  std::vector<ExchangeReport> reports;
};

// A dispatcher over scripted workers, with rows and a placement of its own.
class DispatchTest : public ::testing::Test {
 protected:
  static constexpr int kRows = 9;

  DispatchTest() {
    config_.hidden = kHidden;
    config_.layers = kLayers;
    config_.experts = kExperts;
    config_.experts_per_token = kPerToken;
    MakeRows(1);
    Place(3, 1);
  }

  void MakeRows(uint32_t seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-2, 2);
    x_.resize(kRows * kHidden);
    for (float& value : x_) value = uniform(random);
    residual_ = std::vector<float>(kRows * kHidden);
    for (float& value : residual_) value = uniform(random);
    selected_.clear();
    for (int row = 0; row < kRows; ++row) {
      std::vector<int32_t> experts(kExperts);
      std::iota(experts.begin(), experts.end(), 0);
      std::shuffle(experts.begin(), experts.end(), random);
      std::sort(experts.begin(), experts.begin() + kPerToken);
      for (int i = 0; i < kPerToken; ++i)
        selected_.push_back({experts[static_cast<size_t>(i)], i == 2 ? 0.0f : uniform(random)});
    }
    skip_.assign(kRows, 0);
  }

  // Experts at random over `workers`, numbered from 100.
  void Place(int workers, uint32_t seed) {
    std::mt19937 random(seed);
    auto table = std::make_shared<RoutingTable>();
    table->epoch = 5;
    transports_.clear();
    for (int w = 0; w < workers; ++w) {
      transports_.push_back(std::make_shared<ScriptedTransport>());
      table->members.push_back({WorkerId(static_cast<uint64_t>(100 + w)), transports_.back()});
    }
    for (int i = 0; i < kLayers * kExperts; ++i)
      table->member.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(workers)));
    pool_.routes = table;
    dispatcher_ = std::make_unique<Dispatcher>(config_, kDigest, &pool_, timeouts_, kIdentity, clock_);
  }

  absl::Status Begin() {
    Activations x;
    x.rows = kRows;
    x.cols = kHidden;
    x.f32 = x_.data();
    return dispatcher_->Begin({.layer = kLayer, .x = x, .selected = selected_, .skip = skip_}, pool_.routes);
  }
  absl::Status Exchange() {
    out_ = residual_;
    faults_.assign(kRows, 0);
    absl::Status status = Begin();
    if (status.ok()) status = dispatcher_->Finish(0, &backend_->Trunk(), nullptr, out_.data(), faults_);
    return status;
  }

  // By the definition, without a placement.
  std::vector<float> Expected() const {
    std::vector<float> expected = residual_;
    for (size_t row = 0; row < kRows; ++row) {
      if (skip_[row]) continue;
      std::vector<ExpertEntry> entries;
      for (size_t i = row * kPerToken; i < (row + 1) * kPerToken; ++i)
        entries.push_back({selected_[i].expert, selected_[i].weight});
      std::vector<float> sum;
      EXPECT_TRUE(
          TreeSum(TreeLevels(kExperts), 0, entries, std::span(x_).subspan(row * kHidden, kHidden), &sum));
      for (size_t c = 0; c < kHidden; ++c) expected[row * kHidden + c] += sum[c];
    }
    return expected;
  }

  void ExpectLost(const absl::Status& status, uint64_t worker) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()),
                testing::AllOf(testing::HasSubstr("worker " + std::to_string(worker)),
                               testing::HasSubstr("layer 1")));
    EXPECT_THAT(pool_.losses, testing::ElementsAre(worker));
    EXPECT_EQ(out_, residual_);
    for (const auto& transport : transports_) EXPECT_EQ(transport->open(), 0u);
    EXPECT_EQ(dispatcher_->totals().losses, 1u);
  }
  // The exchange works again once the workers do.
  void ExpectRecovers() {
    pool_.losses.clear();
    for (const auto& transport : transports_) {
      transport->worker = Honest;
      transport->send_status = absl::OkStatus();
    }
    EXPECT_TRUE(Exchange().ok());
    EXPECT_EQ(out_, Expected());
    EXPECT_THAT(pool_.losses, testing::IsEmpty());
  }

  const std::unique_ptr<Backend> backend_ = MakeBackend({.threads = 2}).value();
  ModelConfig config_;
  DispatchTimeouts timeouts_;
  std::function<absl::Time()> clock_ = absl::Now;
  std::vector<float> x_;
  std::vector<float> residual_;
  std::vector<float> out_;
  std::vector<SelectedExpert> selected_;
  std::vector<uint8_t> skip_;
  std::vector<uint8_t> faults_;
  RecordingPool pool_;
  std::vector<std::shared_ptr<ScriptedTransport>> transports_;
  std::unique_ptr<Dispatcher> dispatcher_;
};

}  // namespace moepool
