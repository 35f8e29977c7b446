// Fake workers, transports and clock for Membership.
#pragma once

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/log.h"
#include "gtest/gtest.h"
#include "router/membership.h"

namespace moepool {

inline constexpr int kLayers = 2;
inline constexpr int kExperts = 8;
inline constexpr uint64_t kExpertBytes = 10;

class FakeTransport final : public ExpertTransport {
 public:
  std::string_view Name() const override { return "fake"; }
  absl::Status Send(uint64_t, std::span<const uint8_t>, absl::Time) override { return absl::OkStatus(); }
  absl::StatusOr<FrameBytes> Receive(uint64_t, absl::Time) override {
    return absl::DeadlineExceededError("fake");
  }
  void Forget(uint64_t) override {}
  void Close(const absl::Status&) override { lost = true; }
  bool Lost() const override { return lost; }
  bool lost = false;
};

// Holds experts the way a worker does: adds what it is assigned when it loads, drops the rest on Release.
class FakeWorker final : public WorkerLink {
 public:
  void Welcome(WorkerId worker) override {
    EXPECT_EQ(id.value(), 0u);
    id = worker;
  }
  void Assign(uint64_t new_epoch, std::vector<ExpertRef> experts) override {
    EXPECT_NE(id.value(), 0u) << "assigned before it was welcomed";
    EXPECT_FALSE(gone);
    EXPECT_GE(new_epoch, epoch);
    epoch = new_epoch;
    assigned = {experts.begin(), experts.end()};
    ++assignments;
  }
  void Release(uint64_t released) override {
    if (released != epoch) return;
    std::erase_if(held, [&](const ExpertRef& ref) { return !assigned.contains(ref); });
    ++releases;
  }
  void Goodbye(const std::string& why) override {
    EXPECT_FALSE(gone);
    gone = true;
    reason = why;
  }
  void Load() { held.insert(assigned.begin(), assigned.end()); }

  WorkerId id;
  uint64_t epoch = 0;
  std::set<ExpertRef> assigned;
  std::set<ExpertRef> held;
  int assignments = 0;
  int releases = 0;
  bool gone = false;
  std::string reason;
};

class MembershipTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { InitLog("test", LogLevel::kError); }
  void Make(int min_workers = 1) {
    MembershipOptions options;
    options.layers = kLayers;
    options.experts = kExperts;
    options.expert_bytes.assign(kLayers * kExperts, kExpertBytes);
    options.model_digest = std::string(32, 'd');
    options.min_workers = min_workers;
    options.heartbeat = absl::Seconds(1);
    options.missed_heartbeats = 5;
    options.attach_limit = absl::Seconds(30);
    options.clock = [this] { return now_; };
    pool_ = std::make_unique<Membership>(std::move(options));
  }
  WorkerDescription Describe(std::string name, uint64_t limit = 0) {
    return {kPoolProtocolVersion, std::string(32, 'd'), std::move(name), "cpu", "cpu-1", limit};
  }
  std::shared_ptr<FakeWorker> Join(std::string name, uint64_t limit = 0) {
    auto worker = std::make_shared<FakeWorker>();
    auto id = pool_->Join(Describe(std::move(name), limit), worker);
    EXPECT_TRUE(id.ok()) << id.status();
    EXPECT_EQ(*id, worker->id);
    return worker;
  }
  std::shared_ptr<FakeTransport> Attach(const FakeWorker& worker) {
    auto transport = std::make_shared<FakeTransport>();
    EXPECT_TRUE(pool_->AttachTransport(worker.id, transport).ok());
    return transport;
  }
  void Load(FakeWorker* worker) {
    worker->Load();
    pool_->OnLoaded(worker->id, worker->epoch);
  }
  // Ids of those that some expert is routed to.
  std::set<uint64_t> Routed() {
    std::set<uint64_t> routed;
    const auto table = pool_->Routes();
    if (table == nullptr) return routed;
    EXPECT_EQ(table->member.size(), static_cast<size_t>(kLayers * kExperts));
    for (const int32_t member : table->member) routed.insert(table->members.at(member).worker.value());
    return routed;
  }

  absl::Time now_ = absl::UnixEpoch();
  std::unique_ptr<Membership> pool_;
};

}  // namespace moepool
