// The engine over a tiny synthetic model, with local workers and with pools that fail.
#include "router/engine.h"

#include <gmock/gmock.h>

#include "tests/unit/router/engine_testing.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

TEST_F(EngineTest, GeneratesMaxTokensAndFreesItsBlocks) {
  Start(MixtralSpec());
  SequenceUpdate last;
  const std::vector<int32_t> ids = Run(Request(20, 9), &last);
  EXPECT_EQ(ids.size(), 9u);
  EXPECT_TRUE(last.status.ok()) << last.status;
  EXPECT_EQ(last.reason, FinishReason::kLength);
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  const EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.kv_blocks_free, stats.kv_blocks);
  EXPECT_EQ(stats.prefill_rows, 20u);
  EXPECT_EQ(stats.decode_rows, 8u);
}

TEST_F(EngineTest, StopIdEndsTheSequenceAndIsNotReturned) {
  Start(MixtralSpec());
  const std::vector<int32_t> free_running = Run(Request(12, 8));
  ASSERT_EQ(free_running.size(), 8u);
  SequenceRequest request = Request(12, 8);
  request.stop_ids = {free_running[5]};
  const size_t expected =
      std::find(free_running.begin(), free_running.end(), free_running[5]) - free_running.begin();
  SequenceUpdate last;
  const std::vector<int32_t> ids = Run(request, &last);
  EXPECT_EQ(last.reason, FinishReason::kStop);
  EXPECT_EQ(ids, std::vector<int32_t>(free_running.begin(), free_running.begin() + expected));
}

TEST_F(EngineTest, ScoredLogitsAreThoseThatGreedyGenerationUsed) {
  Start(MixtralSpec());
  SequenceRequest request = Request(17, 6);
  const std::vector<int32_t> ids = Run(request);
  SequenceRequest score = Request(17, 1);
  score.prompt.insert(score.prompt.end(), ids.begin(), ids.end());
  score.first_logits = 16;
  Collector collector;
  auto call = engine_->Generate(score, collector.Callback());
  ASSERT_TRUE(call.ok());
  EXPECT_TRUE(collector.WaitFinished().status.ok());
  const std::vector<LogitsRow> logits = collector.logits();
  ASSERT_EQ(logits.size(), 7u);
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(logits[i].position, static_cast<int32_t>(16 + i));
    const auto best = std::max_element(logits[i].logits.begin(), logits[i].logits.end());
    EXPECT_EQ(best - logits[i].logits.begin(), ids[i]);
  }
}

TEST_F(EngineTest, SixteenStreamsShareSteps) {
  EngineOptions options;
  options.limits.max_running = 16;
  Start(MixtralSpec(), options);
  std::vector<std::unique_ptr<Collector>> collectors;
  std::vector<std::unique_ptr<TrunkCall>> calls;
  pool_->Break();  // all arrive before the first step
  for (int i = 0; i < 16; ++i) {
    collectors.push_back(std::make_unique<Collector>());
    auto call = engine_->Generate(Request(4, 10), collectors.back()->Callback());
    ASSERT_TRUE(call.ok());
    calls.push_back(std::move(*call));
  }
  pool_->Mend();
  for (auto& collector : collectors) EXPECT_TRUE(collector->WaitFinished().status.ok());
  // One step prefills all 64 rows, nine decode 16 each.
  const EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.last_step_rows, 16);
  EXPECT_LE(stats.steps, 10u);
}

TEST_F(EngineTest, RefusesWhatDoesNotFitTheModelNamingBothValues) {
  Start(MixtralSpec());
  const auto refusal = [&](SequenceRequest request) {
    auto call = engine_->Generate(std::move(request), [](SequenceUpdate) {});
    EXPECT_EQ(call.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(call.status().message());
  };
  SequenceRequest request = Request(3, 4);
  request.prompt[1] = 300;
  EXPECT_THAT(refusal(request), AllOf(HasSubstr("300"), HasSubstr("vocabulary")));
  request.prompt[1] = -1;
  EXPECT_THAT(refusal(request), HasSubstr("-1"));
  EXPECT_THAT(refusal(Request(0, 4)), HasSubstr("0 tokens"));
  EXPECT_THAT(refusal(Request(250, 7)), AllOf(HasSubstr("250"), HasSubstr("256")));
  EXPECT_THAT(refusal(Request(3, 0)), HasSubstr("max_tokens is 0"));
  request = Request(3, 4);
  request.sampling.temperature = -1;
  EXPECT_THAT(refusal(request), HasSubstr("temperature"));
  request = Request(3, 4);
  request.first_logits = 3;
  EXPECT_THAT(refusal(request), HasSubstr("position 3"));
}

TEST_F(EngineTest, CancelFreesTheBlocksAndOthersGoOn) {
  Start(MixtralSpec());
  Collector cancelled;
  Collector other;
  cancelled.At(2, [this] { pool_->Break(); });  // so that it cannot end by itself before it is cancelled
  auto call = engine_->Generate(Request(8, 240), cancelled.Callback());
  auto other_call = engine_->Generate(Request(8, 30), other.Callback());
  ASSERT_TRUE(call.ok());
  ASSERT_TRUE(other_call.ok());
  cancelled.WaitIds(2);
  (*call)->Cancel();
  EXPECT_EQ(cancelled.WaitFinished().status.code(), absl::StatusCode::kCancelled);
  pool_->Mend();
  EXPECT_TRUE(other.WaitFinished().status.ok());
  EXPECT_EQ(other.ids(), Run(Request(8, 30)));
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_EQ(engine_->Stats().kv_blocks_free, engine_->Stats().kv_blocks);
}

TEST_F(EngineTest, DestroyingACallStopsItsUpdates) {
  Start(MixtralSpec());
  auto collector = std::make_unique<Collector>();
  auto call = engine_->Generate(Request(8, 240), collector->Callback());
  ASSERT_TRUE(call.ok());
  collector->WaitIds(1);
  call->reset();
  collector.reset();  // an update after this would be a use after free, which the sanitizers see
  EXPECT_EQ(Run(Request(8, 5)).size(), 5u);
}

TEST_F(EngineTest, DeadlinePassesWhileWaitingForHolders) {
  Start(MixtralSpec());
  pool_->Break();
  SequenceRequest request = Request(4, 4);
  request.deadline = absl::Now() + absl::Milliseconds(20);
  SequenceUpdate last;
  Run(request, &last);
  EXPECT_EQ(last.status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(EngineTest, UnavailableAfterTheTimeoutNamesWhatIsMissing) {
  EngineOptions options;
  options.no_holder_timeout = absl::Milliseconds(30);
  Start(MixtralSpec(), options);
  pool_->Break();
  SequenceUpdate last;
  Run(Request(4, 4), &last);
  EXPECT_EQ(last.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(last.status.message()), HasSubstr("expert 3 of layer 1"));
  pool_->Mend();
  EXPECT_EQ(Run(Request(4, 4)).size(), 4u);
}

TEST_F(EngineTest, TokensAreTheSameWhenRoutesGoAndComeBackInTheMiddle) {
  Start(MixtralSpec());
  const std::vector<int32_t> undisturbed = Run(Request(10, 60));
  Collector collector;
  auto call = engine_->Generate(Request(10, 60), collector.Callback());
  ASSERT_TRUE(call.ok());
  for (size_t seen = 5; seen <= 45; seen += 10) {
    collector.WaitIds(seen);
    pool_->Break();
    pool_->Mend();
  }
  EXPECT_TRUE(collector.WaitFinished().status.ok());
  EXPECT_EQ(collector.ids(), undisturbed);
}

TEST_F(EngineTest, QueueBoundIsResourceExhausted) {
  EngineOptions options;
  options.max_waiting = 3;
  Start(MixtralSpec(), options);
  pool_->Break();
  std::vector<std::unique_ptr<TrunkCall>> calls;
  absl::Status status;
  for (int i = 0; i < 4; ++i) {
    auto call = engine_->Generate(Request(4, 4), [](SequenceUpdate) {});
    status = call.status();
    if (call.ok()) calls.push_back(std::move(*call));
  }
  EXPECT_EQ(calls.size(), 3u);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("3 of 3"));
}

TEST_F(EngineTest, SequencesWaitForBlocksAndAllFinish) {
  EngineOptions options;
  options.kv_bytes =
      KvCache::BlockBytes(MakeSyntheticSource(MixtralSpec()).value()->Config(), KvType::kF16) * 5;
  Start(MixtralSpec(), options);
  std::vector<std::unique_ptr<Collector>> collectors;
  std::vector<std::unique_ptr<TrunkCall>> calls;
  for (int i = 0; i < 7; ++i) {
    collectors.push_back(std::make_unique<Collector>());
    auto call = engine_->Generate(Request(20 + i, 20), collectors.back()->Callback());
    ASSERT_TRUE(call.ok()) << call.status();
    calls.push_back(std::move(*call));
  }
  for (auto& collector : collectors) {
    EXPECT_TRUE(collector->WaitFinished().status.ok());
    EXPECT_EQ(collector->ids().size(), 20u);
  }
}

TEST_F(EngineTest, ShutDownEndsRunningSequences) {
  Start(MixtralSpec());
  Collector collector;
  collector.At(1, [this] { pool_->Break(); });
  auto call = engine_->Generate(Request(8, 240), collector.Callback());
  ASSERT_TRUE(call.ok());
  collector.WaitIds(1);
  engine_.reset();
  EXPECT_EQ(collector.WaitFinished().status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, DescribesModelAndPool) {
  Start(MixtralSpec());
  auto info = engine_->Describe();
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->experts, 6);
  EXPECT_EQ(info->context_tokens, 256);
  EXPECT_EQ(info->vocab_size, 300);
  auto pool = engine_->Pool();
  EXPECT_FALSE(pool->gpu.has_value());
  ASSERT_TRUE(pool.ok());
  EXPECT_TRUE(pool->ready);
  pool_->Break();
  EXPECT_EQ(engine_->Pool()->waiting_for, "expert 3 of layer 1 has no holder");
}

TEST_F(EngineTest, ThePoolShowsTheTrunksGpu) {
  EngineOptions options;
  int calls = 0;
  options.read_gpu = [&calls] {
    GpuReading gpu;
    gpu.memory_used_bytes = static_cast<uint64_t>(++calls);
    return gpu;
  };
  Start(MixtralSpec(), std::move(options));
  EXPECT_EQ(engine_->Pool()->gpu->memory_used_bytes, 1u);
  EXPECT_EQ(engine_->Pool()->gpu->memory_used_bytes, 2u);
}

}  // namespace
}  // namespace moepool
