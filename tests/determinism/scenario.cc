// See scenario.h.
#include "tests/determinism/scenario.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <span>

#include "common/base/mutex.h"
#include "common/base/str.h"
#include "common/kernels/kernels.h"
#include "common/model/expert_tensors.h"
#include "expert_worker/executor.h"
#include "expert_worker/expert_store.h"
#include "gtest/gtest.h"
#include "router/engine.h"
#include "router/local_pool.h"
#include "router/placement.h"
#include "tests/support/preempting_scheduler.h"

namespace moepool {
namespace {

uint64_t Hash(std::span<const float> values) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    hash = (hash ^ bits) * 0x100000001b3;
  }
  return hash;
}

struct TestWorker {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<ExpertStore> store;
  std::unique_ptr<Executor> executor;
  std::unique_ptr<TransportHarness> harness;
};

// Workers behind real carriers, with a placement that never changes.
class FixedPool : public ExpertPool {
 public:
  FixedPool(const std::shared_ptr<const ModelSource>& source, const Scenario& scenario,
            const TransportCase& transport) {
    const ModelConfig& config = source->Config();
    const ModelDigest digest = source->Digest().value();
    uint64_t digest8 = 0;
    std::memcpy(&digest8, digest.data(), sizeof(digest8));
    std::vector<PlacementWorker> placed;
    for (int w = 0; w < scenario.workers; ++w) placed.push_back({WorkerId(static_cast<uint64_t>(w + 1)), 0});
    const std::vector<uint64_t> bytes = ExpertBytes(*source);
    const PlacementPlan plan = PlanPlacement({placed, bytes, config.layers, config.experts}).value();
    auto routes = std::make_shared<RoutingTable>();
    routes->epoch = 1;
    routes->member = plan.owner;
    for (int w = 0; w < scenario.workers; ++w) {
      TestWorker& worker = workers_.emplace_back();
      worker.backend = scenario.make_worker
                           ? scenario.make_worker()
                           : MakeBackend({"cpu", scenario.worker_isa, scenario.threads}).value();
      worker.store = std::make_unique<ExpertStore>(source.get(), worker.backend.get(), 0);
      for (size_t i = 0; i < plan.owner.size(); ++i) {
        if (plan.owner[i] != w) continue;
        const int index = static_cast<int>(i);
        EXPECT_TRUE(worker.store->Load(index / config.experts, index % config.experts).ok());
      }
      worker.executor =
          std::make_unique<Executor>(worker.backend.get(), worker.store.get(),
                                     FrameLimits{config.hidden, config.layers, config.experts, digest8});
      Executor* executor = worker.executor.get();
      if (transport.make_on_device) {
        worker.harness = transport.make_on_device(
            [executor](const FrameBytes& frame, DeviceWriter* writer) { executor->Handle(frame, writer); });
      } else {
        worker.harness =
            transport.make([executor](std::span<const uint8_t> frame,
                                      const FrameWriter& write) { executor->Handle(frame, write); },
                           {});
      }
      // The harness owns the transport.
      routes->members.push_back(
          {placed[static_cast<size_t>(w)].id,
           std::shared_ptr<ExpertTransport>(&worker.harness->router(), [](ExpertTransport*) {})});
    }
    routes_ = std::move(routes);
  }
  std::shared_ptr<const RoutingTable> Routes() override { return routes_; }
  std::string WaitingFor() override { return ""; }
  void ReportLoss(WorkerId, const absl::Status& cause) override {
    ADD_FAILURE() << "lost a worker: " << cause;
  }
  void ReportExchanges(std::span<const ExchangeReport>) override {}
  std::vector<PoolWorkerInfo> Workers() override { return {}; }

 private:
  std::vector<TestWorker> workers_;
  std::shared_ptr<const RoutingTable> routes_;
};

// Counts the sequences that have ended.
class Tally {
 public:
  void End(const SequenceUpdate& update) {
    MutexLock lock(&mutex_);
    EXPECT_TRUE(update.status.ok()) << update.status;
    ++ended_;
    changed_.NotifyAll();
  }
  void Wait(int ended) {
    MutexLock lock(&mutex_);
    while (ended_ < ended) changed_.Wait(&mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int ended_ GUARDED_BY(mutex_) = 0;
};

}  // namespace

std::ostream& operator<<(std::ostream& os, const Scenario& s) {
  return os << "workers " << s.workers << " transport " << s.transport << " order " << s.order
            << " max_running " << s.max_running << " step_tokens " << s.step_tokens << " threads "
            << s.threads << " isa " << s.isa << "/" << s.worker_isa << " prefix_cache " << s.prefix_cache
            << " memory " << static_cast<int>(s.memory) << " kv_type " << static_cast<int>(s.kv_type)
            << " direct " << s.direct << " micro_batches " << s.micro_batches << " short_first "
            << s.short_first;
}

std::shared_ptr<const ModelSource> MakeModel(const SynthSpec& spec) {
  return MakeSyntheticSource(spec).value();
}

std::vector<SequenceRequest> ScenarioRequests() {
  const auto prompt = [](int i, int length) {
    std::vector<int32_t> ids;
    for (int t = 0; t < length; ++t) ids.push_back((t * t * 7 + t * 31 + i * 13) % 256);
    return ids;
  };
  std::vector<std::vector<int32_t>> prompts;
  for (const int length : {1, 300, 5, 17, 33, 64, 2}) {
    prompts.push_back(prompt(static_cast<int>(prompts.size()), length));
  }
  prompts.push_back(prompts[1]);
  for (const int shared : {290, 150}) {
    std::vector<int32_t>& ids = prompts.emplace_back(prompts[1].begin(), prompts[1].begin() + shared);
    const std::vector<int32_t> tail = prompt(static_cast<int>(prompts.size()), 20);
    ids.insert(ids.end(), tail.begin(), tail.end());
  }
  std::vector<SequenceRequest> requests;
  for (int i = 0; i < static_cast<int>(prompts.size()); ++i) {
    SequenceRequest request;
    request.request_id = StrCat("request-", i);
    request.max_tokens = prompts[static_cast<size_t>(i)].size() > 100 ? 4 : 20 + 3 * i;
    request.prompt = std::move(prompts[static_cast<size_t>(i)]);
    request.sampling.seed = uint64_t{100} + static_cast<uint64_t>(i);
    if (i % 2 == 1) {
      request.sampling.temperature = 0.9;
      request.sampling.top_p = 0.95;
      request.sampling.repetition_penalty = 1.1;
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

LogitHashes RunScenario(const std::shared_ptr<const ModelSource>& source,
                        std::vector<SequenceRequest> requests, const Scenario& scenario,
                        const std::vector<TransportCase>& transports, EngineStats* stats,
                        SegmentStats* segments) {
  const std::unique_ptr<Backend> backend = scenario.make_trunk
                                               ? scenario.make_trunk()
                                               : MakeBackend({"cpu", scenario.isa, scenario.threads}).value();
  std::unique_ptr<ExpertPool> pool;
  if (scenario.direct) {
    pool = LocalPool::Create(source, backend.get(), 1).value();
    EXPECT_EQ(pool->Routes()->backend, backend.get());
  } else {
    pool = std::make_unique<FixedPool>(source, scenario, transports[static_cast<size_t>(scenario.transport)]);
  }
  LogitHashes hashes;  // written on the engine's thread, read after it has ended
  EngineOptions options;
  options.limits.max_running = scenario.max_running;
  options.limits.token_budget = scenario.step_tokens;
  options.prefix_cache = scenario.prefix_cache;
  options.kv_type = scenario.kv_type;
  options.micro_batches = scenario.micro_batches;
  if (scenario.short_first) options.decoder.first_rows = [](int) { return kMicroBatchAlignment; };
  const ModelConfig& config = source->Config();
  const uint64_t block_bytes = KvCache::BlockBytes(config, scenario.kv_type);
  int64_t longest = 0;
  int64_t all_tokens = 0;
  for (const SequenceRequest& request : requests) {
    const int64_t tokens = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
    longest = std::max(longest, tokens);
    all_tokens += tokens + kKvBlockTokens;
  }
  int blocks = KvBlocksFor(all_tokens);
  if (scenario.memory == Memory::kScarce) {
    blocks = (config.sliding_window > 0 ? KvBlocksOfWindow(config.sliding_window) : KvBlocksFor(longest)) + 2;
  }
  options.kv_bytes = block_bytes * static_cast<uint64_t>(blocks);
  if (scenario.memory == Memory::kPreempt) {
    options.make_scheduler = [](const SchedulerLimits& limits) {
      return std::make_unique<PreemptingScheduler>(limits);
    };
  }
  options.on_logits = [&](const std::string& request, int position, std::span<const float> logits) {
    EXPECT_TRUE(hashes.emplace(std::pair(request, position), Hash(logits)).second) << "logits come twice";
  };
  auto engine = Engine::Create(backend.get(), source, pool.get(), options).value();
  if (scenario.order == 1) std::reverse(requests.begin(), requests.end());
  Tally tally;
  std::vector<std::unique_ptr<TrunkCall>> calls;
  for (SequenceRequest& request : requests) {
    auto call = engine->Generate(std::move(request), [&](const SequenceUpdate& update) {
      if (update.finished) tally.End(update);
    });
    EXPECT_TRUE(call.ok()) << call.status();
    calls.push_back(std::move(*call));
    if (scenario.order == 2) tally.Wait(static_cast<int>(calls.size()));
  }
  tally.Wait(static_cast<int>(calls.size()));
  EXPECT_TRUE(engine->WaitIdle(absl::Minutes(1)));
  if (segments != nullptr) segments->replayed += backend->Segments().replayed;
  if (stats != nullptr) {
    const EngineStats counted = engine->Stats();
    stats->preemptions += counted.preemptions;
    stats->prefix_hits += counted.prefix_hits;
    stats->kv_blocks_evicted += counted.kv_blocks_evicted;
    for (size_t i = 0; i < counted.steps_by_micro_batches.size(); ++i) {
      stats->steps_by_micro_batches[i] += counted.steps_by_micro_batches[i];
    }
    EXPECT_EQ(counted.kv_blocks_free, counted.kv_blocks);
  }
  engine.reset();
  return hashes;
}

std::vector<KvType> KvTypes(const ModelConfig& config) {
  std::vector<KvType> types = {KvType::kF16, KvType::kF32, KvType::kBF16};
  if (config.head_dim % 32 == 0) types.push_back(KvType::kQ8_0);
  return types;
}

std::vector<Scenario> PairwiseScenarios(int transports, const std::vector<KvType>& kv_types) {
  const std::vector<int> workers = {0, 2, 3, 5, 16};  // 0: the trunk runs them itself
  const std::vector<int> running = {1, 3, 16};
  const std::vector<int> steps = {1, 7, 64, 512};
  const std::vector<int> threads = {1, 2, 3};
  std::vector<std::string> isas;
  for (const KernelTable* table : AvailableKernels()) isas.push_back(table->name);
  constexpr int kSettings = 12;
  const int isa_count = static_cast<int>(isas.size());
  const int kv_type_count = static_cast<int>(kv_types.size());
  const std::array<int, kSettings> sizes = {5, transports,    3, 3, 4, 3, isa_count, isa_count, 2,
                                            3, kv_type_count, 3};
  using Choice = std::array<int, kSettings>;
  std::set<std::array<int, 4>> open;  // (setting, value, setting, value) not yet seen together
  for (int a = 0; a < kSettings; ++a) {
    for (int b = a + 1; b < kSettings; ++b) {
      for (int i = 0; i < sizes[a]; ++i) {
        for (int j = 0; j < sizes[b]; ++j) open.insert({a, i, b, j});
      }
    }
  }
  const auto gain = [&](const Choice& c) {
    int covered = 0;
    for (int a = 0; a < kSettings; ++a) {
      for (int b = a + 1; b < kSettings; ++b) covered += open.count({a, c[a], b, c[b]}) > 0 ? 1 : 0;
    }
    return covered;
  };
  std::vector<Scenario> scenarios;
  while (!open.empty()) {
    // Starts from an open pair and chooses each other setting for the most pairs; good, not minimal.
    const std::array<int, 4> pair = *open.begin();
    Choice choice{};
    choice[pair[0]] = pair[1];
    choice[pair[2]] = pair[3];
    for (int s = 0; s < kSettings; ++s) {
      if (s == pair[0] || s == pair[2]) continue;
      int best = -1;
      int best_value = 0;
      for (int v = 0; v < sizes[s]; ++v) {
        choice[s] = v;
        if (const int g = gain(choice); g > best) {
          best = g;
          best_value = v;
        }
      }
      choice[s] = best_value;
    }
    for (int a = 0; a < kSettings; ++a) {
      for (int b = a + 1; b < kSettings; ++b) open.erase({a, choice[a], b, choice[b]});
    }
    Scenario scenario;
    scenario.workers = workers[choice[0]];
    scenario.direct = scenario.workers == 0;
    scenario.transport = choice[1];
    scenario.order = choice[2];
    scenario.max_running = running[choice[3]];
    scenario.step_tokens = steps[choice[4]];
    scenario.threads = threads[choice[5]];
    scenario.isa = isas[choice[6]];
    scenario.worker_isa = isas[choice[7]];
    scenario.prefix_cache = choice[8] == 1;
    scenario.memory = static_cast<Memory>(choice[9]);
    scenario.kv_type = kv_types[static_cast<size_t>(choice[10])];
    scenario.micro_batches = choice[11] == 0 ? 1 : 2;
    scenario.short_first = choice[11] == 2;
    scenarios.push_back(scenario);
  }
  return scenarios;
}

std::vector<std::pair<std::string, SynthSpec>> ScenarioModels() {
  SynthSpec dense;  // 17 blocks in 16 slices
  dense.name = "dense";
  dense.hidden = 96;
  dense.heads = 6;
  dense.ffn = 544;
  dense.vocab = 288;
  dense.dtype = DType::kQ4_1;
  dense.tied_embeddings = true;
  SynthSpec mixtral;
  mixtral.name = "mixtral";
  mixtral.hidden = 256;
  mixtral.head_dim = 32;
  mixtral.experts = 16;
  mixtral.experts_per_token = 2;
  mixtral.ffn = 256;
  mixtral.vocab = 288;
  mixtral.dtype = DType::kQ4_K;
  SynthSpec qwen;
  qwen.name = "qwen3moe";
  qwen.family = "qwen3moe";
  qwen.head_dim = 24;
  qwen.experts = 16;
  qwen.experts_per_token = 5;
  qwen.ffn = 32;
  qwen.vocab = 288;
  qwen.dtype = DType::kF16;
  SynthSpec window;  // of which the long requests leave blocks behind
  window.name = "window";
  window.head_dim = 32;
  window.sliding_window = 70;
  window.ffn = 288;
  window.vocab = 288;
  SynthSpec phimoe;  // with requests on both sides of the context that its rotation was trained for
  phimoe.name = "phimoe";
  phimoe.family = "phimoe";
  phimoe.original_context = 128;
  phimoe.experts = 8;
  phimoe.experts_per_token = 2;
  phimoe.ffn = 64;
  phimoe.vocab = 288;
  SynthSpec qwen2moe;
  qwen2moe.name = "qwen2moe";
  qwen2moe.family = "qwen2moe";
  qwen2moe.experts = 12;
  qwen2moe.experts_per_token = 4;
  qwen2moe.ffn = 32;
  qwen2moe.shared_ffn = 96;
  qwen2moe.vocab = 288;
  SynthSpec olmoe;
  olmoe.name = "olmoe";
  olmoe.family = "olmoe";
  olmoe.experts = 16;
  olmoe.experts_per_token = 8;
  olmoe.ffn = 32;
  olmoe.vocab = 288;
  return {{"dense", dense},   {"mixtral", mixtral},   {"qwen3moe", qwen}, {"window", window},
          {"phimoe", phimoe}, {"qwen2moe", qwen2moe}, {"olmoe", olmoe}};
}

}  // namespace moepool
