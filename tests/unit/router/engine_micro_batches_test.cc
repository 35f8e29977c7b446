// Steps in two micro-batches: the same ids and logits however they are cut, with losses and cancellation on
// the way, and when the engine takes two at all.
#include <map>
#include <set>

#include "tests/unit/router/engine_testing.h"

namespace moepool {
namespace {

// Workers of this process under another name, one call to which fails as if its worker were lost.
class BreakingPool : public ExpertPool {
 public:
  // `at`: which call of all; -1: none.
  BreakingPool(ExpertPool* inner, int at) {
    auto routes = std::make_shared<RoutingTable>(*inner->Routes());
    for (RouteMember& member : routes->members) {
      member.transport = std::make_shared<Transport>(this, member.transport);
    }
    routes_ = routes;
    left_ = at;
  }
  std::shared_ptr<const RoutingTable> Routes() override { return routes_; }
  std::string WaitingFor() override { return ""; }
  void ReportLoss(WorkerId, const absl::Status&) override {}  // it is back at once
  void ReportExchanges(std::span<const ExchangeReport>) override {}
  std::vector<PoolWorkerInfo> Workers() override { return {}; }
  int open() const { return open_; }

 private:
  class Transport : public ExpertTransport {
   public:
    Transport(BreakingPool* pool, std::shared_ptr<ExpertTransport> inner)
        : pool_(*pool), inner_(std::move(inner)) {}
    std::string_view Name() const override { return "elsewhere"; }
    absl::Status Send(uint64_t dispatch_id, std::span<const uint8_t> frame, absl::Time deadline) override {
      if (pool_.left_-- == 0) return absl::UnavailableError("gone");
      ++pool_.open_;
      return inner_->Send(dispatch_id, frame, deadline);
    }
    absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time deadline) override {
      if (pool_.left_-- == 0) return absl::UnavailableError("gone");
      return inner_->Receive(dispatch_id, deadline);
    }
    void Forget(uint64_t dispatch_id) override {
      // The dispatch whose sending failed is forgotten too.
      if (inner_->Receive(dispatch_id, absl::InfinitePast()).status().code() !=
          absl::StatusCode::kInvalidArgument) {
        --pool_.open_;
      }
      inner_->Forget(dispatch_id);
    }
    void Close(const absl::Status& cause) override { inner_->Close(cause); }
    bool Lost() const override { return inner_->Lost(); }

   private:
    BreakingPool& pool_;
    const std::shared_ptr<ExpertTransport> inner_;
  };

  std::shared_ptr<const RoutingTable> routes_;
  int left_ = 0;  // these two: the engine's thread
  int open_ = 0;
};

class EngineMicroBatchesTest : public EngineTest {
 protected:
  static SynthSpec SharedSpec() {
    SynthSpec spec;
    spec.family = "qwen2moe";
    spec.layers = 3;
    spec.experts = 6;
    spec.experts_per_token = 2;
    spec.ffn = 64;
    spec.shared_ffn = 96;
    spec.vocab = 300;
    spec.context = 256;
    return spec;
  }
  EngineOptions Options(int micro_batches) {
    EngineOptions options;
    options.micro_batches = micro_batches;
    options.prefix_cache = false;
    options.on_logits = [this](const std::string&, int position, std::span<const float> logits) {
      logits_[position].assign(logits.begin(), logits.end());
    };
    return options;
  }
  using Logits = std::map<int, std::vector<float>>;
  // Of a request alone, by position.
  Logits LogitsOf(const SynthSpec& spec, EngineOptions options, int prompt, int workers = 2) {
    logits_.clear();
    Start(spec, std::move(options), workers);
    EXPECT_TRUE(engine_ != nullptr);
    Run(Request(prompt, 5));
    const EngineStats stats = engine_->Stats();
    in_two_ = stats.steps_by_micro_batches[1];
    EXPECT_EQ(stats.steps_by_micro_batches[0] + in_two_, stats.steps);
    engine_.reset();
    return logits_;
  }

  Logits logits_;  // the engine's thread; read when it has ended
  uint64_t in_two_ = 0;
};

TEST_F(EngineMicroBatchesTest, APromptMayBeCutAnywhere) {
  for (const SynthSpec& spec : {MixtralSpec(), SharedSpec()}) {
    const Logits expected = LogitsOf(spec, Options(1), 61);
    ASSERT_EQ(expected.size(), 5u);
    EXPECT_EQ(in_two_, 0u);
    for (int first = kMicroBatchAlignment; first < 61; first += kMicroBatchAlignment) {
      EngineOptions options = Options(2);
      options.decoder.first_rows = [first](int) { return first; };
      EXPECT_EQ(LogitsOf(spec, options, 61), expected) << first;
      EXPECT_EQ(in_two_, 1u);  // the prompt; then there is a row a step
    }
  }
}

TEST_F(EngineMicroBatchesTest, StepsOfFewRowsAreNotCut) {
  for (const int prompt : {1, 7, 8, 9, 11}) {
    const Logits expected = LogitsOf(MixtralSpec(), Options(1), prompt);
    EXPECT_EQ(LogitsOf(MixtralSpec(), Options(2), prompt), expected);
    EXPECT_EQ(in_two_, prompt < 2 * kMicroBatchAlignment ? 0u : 1u) << prompt;
  }
}

TEST_F(EngineMicroBatchesTest, WhereTheTrunkRunsTheExpertsItselfNothingIsCut) {
  LogitsOf(MixtralSpec(), Options(2), 61, /*workers=*/1);
  EXPECT_EQ(in_two_, 0u);
}

TEST_F(EngineMicroBatchesTest, AStepThatNobodyWantsLeavesNothingUnderWay) {
  // The second micro-batch's gate cancels; the first one's exchange is under way.
  EngineOptions options = Options(2);
  Mutex ready;
  std::unique_ptr<TrunkCall> call;
  std::set<int> layers;
  int gates = 0;
  options.decoder.on_gate = [&](int layer, std::span<const StepRow> rows, std::span<const SelectedExpert>) {
    if (rows.size() < 8 || gates >= 4) return;
    layers.insert(layer);
    if (++gates == 4) {
      MutexLock lock(&ready);
      call->Cancel();
    }
  };
  SynthSpec spec = MixtralSpec();
  spec.layers = 5;
  const Logits expected = LogitsOf(spec, Options(1), 61);
  logits_.clear();
  Start(spec, options);
  Collector collector;
  ready.Lock();  // the call is there before the step is
  call = engine_->Generate(Request(61, 5), collector.Callback()).value();
  ready.Unlock();
  EXPECT_EQ(collector.WaitFinished().status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_EQ(layers, (std::set<int>{0, 1}));
  EXPECT_EQ(engine_->Stats().abandoned_steps, 1u);
  EXPECT_EQ(engine_->Stats().kv_blocks_free, engine_->Stats().kv_blocks);
  Run(Request(61, 5));
  engine_.reset();
  EXPECT_EQ(logits_, expected);
}

// A worker that is lost at each of the calls of the prompt's step: it is run again, with the same results.
TEST_F(EngineMicroBatchesTest, ALossAtAnyPointIsRunAgain) {
  const Logits expected = LogitsOf(MixtralSpec(), Options(1), 61);
  int losses = 0;
  for (int at = 0; losses == at; ++at) {
    SCOPED_TRACE(at);
    logits_.clear();
    Start(MixtralSpec(), Options(2));
    BreakingPool breaking(local_.get(), at);
    engine_ = Engine::Create(backend_.get(), source_, &breaking, Options(2)).value();
    Run(Request(61, 5));
    losses += static_cast<int>(engine_->Stats().failed_steps);
    engine_.reset();
    EXPECT_EQ(breaking.open(), 0);
    EXPECT_EQ(logits_, expected);
    if (HasFailure()) return;
  }
  // Sends and receives of each layer, micro-batch and worker, and those of the steps of one row.
  EXPECT_GE(losses, 2 * 2 * 2 * 2 + 4 * 2 * 2);
}

// Workers that answer elsewhere, as far as the engine knows.
TEST_F(EngineMicroBatchesTest, BothAreTimedWhereWorkersAreElsewhere) {
  EngineOptions options = Options(0);
  options.limits.token_budget = 20;
  const Logits expected = LogitsOf(MixtralSpec(), options, 200);
  logits_.clear();
  Start(MixtralSpec(), options);
  BreakingPool elsewhere(local_.get(), -1);
  engine_ = Engine::Create(backend_.get(), source_, &elsewhere, options).value();
  // Whatever is faster here: after steps enough either has been tried.
  while (engine_->Stats().steps_by_micro_batches[1] == 0) {
    ASSERT_LT(engine_->Stats().steps, 20'000u);
    logits_.clear();
    Run(Request(200, 5));
  }
  engine_.reset();
  EXPECT_EQ(logits_, expected);
}

}  // namespace
}  // namespace moepool
