// The memory of sequences in the engine: the prefix cache, preemption, and what may happen to a sequence that
// has been preempted.
#include <gmock/gmock.h>

#include <atomic>

#include "tests/support/preempting_scheduler.h"
#include "tests/support/run_sequence.h"
#include "tests/unit/router/engine_testing.h"

namespace moepool {
namespace {

uint64_t BlockBytes() {
  return KvCache::BlockBytes(MakeSyntheticSource(MixtralSpec()).value()->Config(), KvType::kF16);
}

// While it is closed, all that run are preempted and none is admitted.
class Gate {
 public:
  void Close() { closed_ = true; }
  void Open() { closed_ = false; }
  bool closed() const { return closed_; }
  // Until a plan has been made behind the closed gate, and followed.
  void WaitParked() {
    MutexLock lock(&mutex_);
    while (parked_ < 2) changed_.Wait(&mutex_);
  }
  void Parked() {
    MutexLock lock(&mutex_);
    ++parked_;
    changed_.NotifyAll();
  }

 private:
  std::atomic<bool> closed_ = false;
  Mutex mutex_;
  CondVar changed_;
  int parked_ GUARDED_BY(mutex_) = 0;
};

class GatedScheduler final : public Scheduler {
 public:
  GatedScheduler(const SchedulerLimits& limits, Gate* gate)
      : inner_(MakeContinuousBatching(limits)), gate_(gate) {}
  StepPlan Plan(const SchedulerSnapshot& snapshot) const override {
    StepPlan plan = inner_->Plan(snapshot);
    if (!gate_->closed()) return plan;
    plan.preempted.clear();
    plan.admitted.clear();
    plan.chunks.clear();
    for (const SequenceView& s : snapshot.running) {
      if (s.deadline > snapshot.now) plan.preempted.push_back(s.id);
    }
    gate_->Parked();
    return plan;
  }

 private:
  const std::unique_ptr<Scheduler> inner_;
  Gate* const gate_;
};

class EngineMemoryTest : public EngineTest {
 protected:
  // Starts one that is preempted after its third id and stays so.
  std::unique_ptr<TrunkCall> StartParked(SequenceRequest request, Collector* collector) {
    EngineOptions options;
    options.make_scheduler = [this](const SchedulerLimits& limits) {
      return std::make_unique<GatedScheduler>(limits, &gate_);
    };
    engine_.reset();
    Start(MixtralSpec(), options);
    collector->At(3, [this] { gate_.Close(); });
    auto call = engine_->Generate(std::move(request), collector->Callback());
    EXPECT_TRUE(call.ok()) << call.status();
    gate_.WaitParked();
    return std::move(*call);
  }

  Gate gate_;
};

TEST_F(EngineMemoryTest, APromptSeenBeforeIsNotComputedAgain) {
  Start(MixtralSpec());
  SequenceUpdate last;
  const std::vector<int32_t> ids = Run(Request(50, 9), &last);
  EXPECT_EQ(last.cached_tokens, 0);
  EXPECT_EQ(Run(Request(50, 9), &last), ids);
  EXPECT_EQ(last.cached_tokens, 48);
  EXPECT_EQ(Run(Request(48, 9), &last).size(), 9u);
  EXPECT_EQ(last.cached_tokens, 32);  // the last token of a prompt is computed, for its logits
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  const EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.prefix_queries, 50u + 50 + 48);
  EXPECT_EQ(stats.prefix_hits, 48u + 32);
  EXPECT_EQ(stats.prefill_rows, 50u + 2 + 16);
  EXPECT_GT(stats.kv_blocks_cached, 0);
  EXPECT_EQ(stats.kv_blocks_free, stats.kv_blocks);
}

TEST_F(EngineMemoryTest, AnAnswerIsAPrefixToo) {
  Start(MixtralSpec());
  SequenceRequest next = Request(40, 9);
  const std::vector<int32_t> ids = Run(Request(40, 30));
  next.prompt.insert(next.prompt.end(), ids.begin(), ids.end());
  SequenceUpdate last;
  Run(next, &last);
  EXPECT_EQ(last.cached_tokens, 64);  // of 70, of which 69 were computed
}

TEST_F(EngineMemoryTest, OffMeansThatEveryPromptIsComputed) {
  EngineOptions options;
  options.prefix_cache = false;
  Start(MixtralSpec(), options);
  const std::vector<int32_t> ids = Run(Request(50, 9));
  SequenceUpdate last;
  EXPECT_EQ(Run(Request(50, 9), &last), ids);
  EXPECT_EQ(last.cached_tokens, 0);
  const EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.prefix_queries, 0u);
  EXPECT_EQ(stats.kv_blocks_cached, 0);
}

TEST_F(EngineMemoryTest, ScoringReusesWhatStandsBeforeTheFirstLogits) {
  Start(MixtralSpec());
  SequenceRequest score = Request(60, 1);
  score.first_logits = 40;
  const SequenceResult first = RunSequence(engine_.get(), score);
  const SequenceResult second = RunSequence(engine_.get(), score);
  ASSERT_EQ(first.logits.size(), 20u);
  ASSERT_EQ(second.logits.size(), 20u);
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(second.logits[i].position, static_cast<int32_t>(40 + i));
    EXPECT_EQ(second.logits[i].logits, first.logits[i].logits);
  }
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_EQ(engine_->Stats().prefix_hits, 32u);
}

TEST_F(EngineMemoryTest, PreemptedAfterEveryStepAndTheSameIds) {
  std::vector<SequenceRequest> requests;
  for (int i = 0; i < 5; ++i) {
    requests.push_back(Request(1 + 17 * i, 20));
    requests.back().sampling.seed = static_cast<uint64_t>(i);
    requests.back().sampling.temperature = i % 2 == 0 ? 0 : 0.9;
  }
  requests.push_back(Request(70, 1));
  requests.back().first_logits = 3;
  Start(MixtralSpec());
  std::vector<SequenceResult> undisturbed;
  for (const SequenceRequest& request : requests) undisturbed.push_back(RunSequence(engine_.get(), request));
  for (const bool prefix_cache : {true, false}) {
    EngineOptions options;
    options.prefix_cache = prefix_cache;
    options.limits.token_budget = 19;
    options.make_scheduler = [](const SchedulerLimits& limits) {
      return std::make_unique<PreemptingScheduler>(limits);
    };
    engine_.reset();
    Start(MixtralSpec(), options);
    std::vector<std::unique_ptr<Collector>> collectors;
    std::vector<std::unique_ptr<TrunkCall>> calls;
    for (const SequenceRequest& request : requests) {
      collectors.push_back(std::make_unique<Collector>());
      calls.push_back(engine_->Generate(request, collectors.back()->Callback()).value());
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_TRUE(collectors[i]->WaitFinished().status.ok());
      EXPECT_EQ(collectors[i]->ids(), undisturbed[i].ids);
      const std::vector<LogitsRow> logits = collectors[i]->logits();
      ASSERT_EQ(logits.size(), undisturbed[i].logits.size());  // none twice
      for (size_t row = 0; row < logits.size(); ++row) {
        EXPECT_EQ(logits[row].position, undisturbed[i].logits[row].position);
        EXPECT_EQ(logits[row].logits, undisturbed[i].logits[row].logits);
      }
    }
    EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
    EXPECT_GE(engine_->Stats().preemptions, 20u);
    EXPECT_EQ(engine_->Stats().kv_blocks_free, engine_->Stats().kv_blocks);
  }
}

TEST_F(EngineMemoryTest, MoreSequencesThanBlocksAllComeToTheirEnd) {
  std::vector<std::vector<int32_t>> expected;
  Start(MixtralSpec());
  for (int i = 0; i < 7; ++i) expected.push_back(Run(Request(4 + 7 * i, 90)));
  engine_.reset();
  EngineOptions options;
  options.kv_bytes = BlockBytes() * 10;  // the longest needs 9
  Start(MixtralSpec(), options);
  std::vector<std::unique_ptr<Collector>> collectors;
  std::vector<std::unique_ptr<TrunkCall>> calls;
  pool_->Break();  // all arrive before the first step
  for (int i = 0; i < 7; ++i) {
    collectors.push_back(std::make_unique<Collector>());
    calls.push_back(engine_->Generate(Request(4 + 7 * i, 90), collectors.back()->Callback()).value());
  }
  pool_->Mend();
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_TRUE(collectors[i]->WaitFinished().status.ok());
    EXPECT_EQ(collectors[i]->ids(), expected[i]);
  }
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  const EngineStats stats = engine_->Stats();
  EXPECT_GE(stats.preemptions, 1u);
  EXPECT_GE(stats.kv_blocks_evicted, 1u);
  EXPECT_EQ(stats.finished, 7u);
  EXPECT_EQ(stats.kv_blocks_free, 10);
}

TEST_F(EngineMemoryTest, ASequenceThatWouldNotFitAloneIsRefused) {
  EngineOptions options;
  options.kv_bytes = BlockBytes() * 3;
  Start(MixtralSpec(), options);
  const auto call = engine_->Generate(Request(40, 9), [](SequenceUpdate) {});
  EXPECT_EQ(call.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(call.status().message()), ::testing::HasSubstr("the context is 48"));
  EXPECT_EQ(Run(Request(40, 8)).size(), 8u);
}

TEST_F(EngineMemoryTest, BehindAWindowASequenceMayBeLongerThanTheCache) {
  SynthSpec spec = MixtralSpec();
  spec.sliding_window = 40;
  Start(spec);
  const std::vector<int32_t> expected = Run(Request(30, 200));
  ASSERT_EQ(expected.size(), 200u);
  EngineOptions options;
  options.kv_bytes = BlockBytes() * 4;
  ASSERT_EQ(KvBlocksOfWindow(40), 4);
  engine_.reset();
  Start(spec, options);
  EXPECT_EQ(engine_->Describe()->context_tokens, 256);
  EXPECT_EQ(Run(Request(30, 200)), expected);
  EXPECT_EQ(Run(Request(200, 1)).size(), 1u);
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_EQ(engine_->Stats().kv_blocks_free, 4);
  options.kv_bytes = BlockBytes() * 3;
  engine_.reset();
  Start(spec, options);
  EXPECT_EQ(engine_->Describe()->context_tokens, 48);
}

TEST_F(EngineMemoryTest, APreemptedSequenceWaitsAndGoesOn) {
  Start(MixtralSpec());
  const std::vector<int32_t> undisturbed = Run(Request(30, 12));
  Collector collector;
  const auto call = StartParked(Request(30, 12), &collector);
  EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.preemptions, 1u);
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 1);
  EXPECT_EQ(stats.kv_blocks_free, stats.kv_blocks);
  EXPECT_EQ(collector.ids().size(), 3u);
  // A drain waits for it.
  EXPECT_FALSE(engine_->WaitIdle(absl::ZeroDuration()));
  engine_->StopAccepting();
  gate_.Open();
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  const SequenceUpdate last = collector.WaitFinished();
  EXPECT_TRUE(last.status.ok()) << last.status;
  EXPECT_EQ(last.cached_tokens, 0);  // what it found in the cache later is its own
  EXPECT_EQ(collector.ids(), undisturbed);
  stats = engine_->Stats();
  EXPECT_EQ(stats.finished, 1u);
  EXPECT_EQ(stats.prefix_queries, 30u);
  EXPECT_EQ(stats.prefix_hits, 0u);
}

TEST_F(EngineMemoryTest, CancelledWhilePreempted) {
  Collector collector;
  const auto call = StartParked(Request(30, 200), &collector);
  call->Cancel();
  EXPECT_EQ(collector.WaitFinished().status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_EQ(engine_->Stats().failed, 1u);
  gate_.Open();
  EXPECT_EQ(Run(Request(30, 5)).size(), 5u);
}

TEST_F(EngineMemoryTest, TheDeadlinePassesWhilePreempted) {
  SequenceRequest request = Request(30, 200);
  request.deadline = absl::Now() + absl::Seconds(2);
  Collector collector;
  const auto call = StartParked(request, &collector);
  EXPECT_EQ(collector.WaitFinished().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(collector.ids().size(), 3u);
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_EQ(engine_->Stats().failed, 1u);
}

TEST_F(EngineMemoryTest, ShutDownEndsAPreemptedSequence) {
  Collector collector;
  const auto call = StartParked(Request(30, 200), &collector);
  engine_.reset();
  EXPECT_EQ(collector.WaitFinished().status.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace moepool
