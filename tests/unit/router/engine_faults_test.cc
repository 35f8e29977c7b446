// The engine where things go wrong for good: workers that are lost in every step, numbers that are not
// finite, and limits that no transport can carry.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <limits>
#include <map>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/model/synthetic.h"
#include "router/engine.h"
#include "router/local_pool.h"
#include "tests/unit/router/spoilt_source.h"

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

SynthSpec Spec() {
  SynthSpec spec;
  spec.experts = 6;
  spec.experts_per_token = 2;
  spec.ffn = 64;
  spec.vocab = 300;
  spec.context = 256;
  spec.dtype = DType::kF32;
  return spec;
}

// Routes that are always there, to workers whose replies the test can withhold.
class StubbornPool : public ExpertPool {
 public:
  explicit StubbornPool(ExpertPool* inner) : inner_(inner) {}
  std::shared_ptr<const RoutingTable> Routes() override {
    std::shared_ptr<const RoutingTable> routes = inner_->Routes();
    if (!failing_) return routes;
    auto broken = std::make_shared<RoutingTable>(*routes);
    for (RouteMember& member : broken->members) member.transport = std::make_shared<LostTransport>();
    return broken;
  }
  std::string WaitingFor() override { return ""; }
  void ReportLoss(WorkerId, const absl::Status&) override { losses_.fetch_add(1); }
  void ReportExchanges(std::span<const ExchangeReport>) override {}
  std::vector<PoolWorkerInfo> Workers() override { return {}; }

  void SetFailing(bool failing) { failing_ = failing; }
  int losses() const { return losses_; }

 private:
  class LostTransport : public ExpertTransport {
   public:
    std::string_view Name() const override { return "lost"; }
    absl::Status Send(uint64_t, std::span<const uint8_t>, absl::Time) override { return Cut(); }
    absl::StatusOr<FrameBytes> Receive(uint64_t, absl::Time) override { return Cut(); }
    void Forget(uint64_t) override {}
    void Close(const absl::Status&) override {}
    bool Lost() const override { return true; }

   private:
    static absl::Status Cut() { return absl::UnavailableError("the cable was cut"); }
  };

  ExpertPool* const inner_;
  std::atomic<bool> failing_ = false;
  std::atomic<int> losses_ = 0;
};

// Happens once.
class Event {
 public:
  void Notify() {
    MutexLock lock(&mutex_);
    happened_ = true;
    changed_.NotifyAll();
  }
  void Wait() {
    MutexLock lock(&mutex_);
    while (!happened_) changed_.Wait(&mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool happened_ GUARDED_BY(mutex_) = false;
};

// Waits for the last update of a call.
class Outcome {
 public:
  UpdateCallback Callback() {
    return [this](SequenceUpdate update) {
      ids_.insert(ids_.end(), update.ids.begin(), update.ids.end());
      if (!update.finished) return;
      status_ = update.status;
      finished_.Notify();
    };
  }
  const absl::Status& Wait() {
    finished_.Wait();
    return status_;
  }
  const std::vector<int32_t>& ids() const { return ids_; }

 private:
  std::vector<int32_t> ids_;
  absl::Status status_;
  Event finished_;
};

class EngineFaultsTest : public ::testing::Test {
 protected:
  EngineFaultsTest() {
    auto source = MakeSyntheticSource(Spec());
    EXPECT_TRUE(source.ok()) << source.status();
    source_ = std::make_shared<SpoiltSource>(std::move(*source));
    BackendOptions options;
    options.threads = 1;
    backend_ = *MakeBackend(options);
    local_ = *LocalPool::Create(source_, backend_.get(), 2);
    pool_ = std::make_unique<StubbornPool>(local_.get());
  }
  absl::Status Start(EngineOptions options = {}) {
    options.kv_bytes = 4 << 20;
    auto engine = Engine::Create(backend_.get(), source_, pool_.get(), std::move(options));
    if (engine.ok()) engine_ = std::move(*engine);
    return engine.status();
  }
  std::unique_ptr<TrunkCall> Generate(std::vector<int32_t> prompt, Outcome* outcome, int max_tokens = 8) {
    SequenceRequest request;
    request.request_id = "r";
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    auto call = engine_->Generate(std::move(request), outcome->Callback());
    EXPECT_TRUE(call.ok()) << call.status();
    return call.ok() ? std::move(*call) : nullptr;
  }

  std::shared_ptr<SpoiltSource> source_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<LocalPool> local_;
  std::unique_ptr<StubbornPool> pool_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineFaultsTest, StepsThatNeverSucceedEndInUnavailable) {
  EngineOptions options;
  options.no_holder_timeout = absl::Milliseconds(50);
  ASSERT_TRUE(Start(options).ok());
  pool_->SetFailing(true);
  Outcome outcome;
  const auto call = Generate({1, 2, 3}, &outcome);
  EXPECT_EQ(outcome.Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(outcome.Wait().message()),
              AllOf(HasSubstr("no step succeeds"), HasSubstr("the cable was cut")));
  EXPECT_GE(pool_->losses(), 1);
  pool_->SetFailing(false);
  Outcome next;
  const auto next_call = Generate({1, 2, 3}, &next);
  EXPECT_TRUE(next.Wait().ok()) << next.Wait();
  EXPECT_EQ(next.ids().size(), 8u);
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_EQ(engine_->Stats().kv_blocks_free, engine_->Stats().kv_blocks);
}

TEST_F(EngineFaultsTest, ARowThatIsNotFiniteFailsItsRequestAlone) {
  ASSERT_TRUE(Start().ok());
  Outcome alone;
  const auto alone_call = Generate({1, 2, 3}, &alone, 40);
  ASSERT_TRUE(alone.Wait().ok()) << alone.Wait();
  Outcome good;
  Outcome bad;
  const auto good_call = Generate({1, 2, 3}, &good, 40);
  const auto bad_call = Generate({4, 5, kPoison, 6}, &bad);
  EXPECT_EQ(bad.Wait().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(bad.Wait().message()), HasSubstr("position 2"));
  EXPECT_TRUE(good.Wait().ok()) << good.Wait();
  EXPECT_EQ(good.ids(), alone.ids());
  // Blocks that held such numbers are used again.
  Outcome again;
  const auto again_call = Generate({1, 2, 3}, &again, 40);
  EXPECT_TRUE(again.Wait().ok()) << again.Wait();
  EXPECT_EQ(again.ids(), alone.ids());
  EXPECT_EQ(pool_->losses(), 0);
}

TEST_F(EngineFaultsTest, NothingOfAStepThatFaultedStaysInThePrefixCache) {
  ASSERT_TRUE(Start().ok());
  std::vector<int32_t> prompt(40, 3);
  prompt.push_back(kPoison);
  Outcome bad;
  const auto bad_call = Generate(prompt, &bad);
  EXPECT_EQ(bad.Wait().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_EQ(engine_->Stats().kv_blocks_cached, 0);
  Outcome good;
  prompt.back() = 3;
  const auto good_call = Generate(prompt, &good);
  EXPECT_TRUE(good.Wait().ok()) << good.Wait();
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_EQ(engine_->Stats().prefix_hits, 0u);
  EXPECT_EQ(engine_->Stats().kv_blocks_cached, 3);  // 41 and 7 of 8 computed
}

TEST_F(EngineFaultsTest, PlacesInTheQueueAreFreeOnceTheirSequencesAreAdmitted) {
  Event in_step;
  Event go_on;
  bool first_logits = true;
  EngineOptions options;
  options.max_waiting = 1;
  options.on_logits = [&](const std::string&, int, std::span<const float>) {
    if (!std::exchange(first_logits, false)) return;
    in_step.Notify();
    go_on.Wait();
  };
  ASSERT_TRUE(Start(options).ok());
  Outcome first;
  Outcome second;
  const auto first_call = Generate({1, 2, 3}, &first);
  in_step.Wait();
  const auto second_call = Generate({1, 2, 3}, &second);
  go_on.Notify();
  EXPECT_TRUE(first.Wait().ok());
  ASSERT_NE(second_call, nullptr);
  EXPECT_TRUE(second.Wait().ok());
}

TEST_F(EngineFaultsTest, StepsThatNoDispatchCanCarryAreRefused) {
  EngineOptions options;
  options.limits.token_budget = 1'000'000;
  const absl::Status status = Start(options);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("1000000 tokens"), HasSubstr("a dispatch holds")));
}

TEST_F(EngineFaultsTest, ModelsWhoseGateAndUpReadDifferentRowsAreRefused) {
  source_->SetType("blk.1.ffn_up_exps.weight", DType::kQ8_0);
  const absl::Status status = Start();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("blk.1.ffn_gate_exps.weight is of type F32"), HasSubstr("Q8_0")));
}

}  // namespace
}  // namespace moepool
