// One run of the engine under a chosen scenario, reduced to a hash of the logits behind every token. What
// DESIGN calls determinism is that these hashes depend on model and requests and on nothing else.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "common/model/synthetic.h"
#include "router/engine.h"
#include "tests/contract/transport/transport_fixture.h"

namespace moepool {

enum class Memory {
  kPlenty,
  kScarce,   // little more than the longest sequence needs: sequences are preempted for want of blocks
  kPreempt,  // whenever one has got an id, all are preempted
};

struct Scenario {
  int workers = 1;
  int transport = 0;  // index into the transports of the test
  int order = 0;      // 0 as listed, 1 reversed, 2 one after the other
  int max_running = 16;
  int step_tokens = 512;
  bool prefix_cache = false;
  Memory memory = Memory::kPlenty;
  int micro_batches = 1;
  bool short_first = false;  // of two the first has the fewest rows that there may be, not half of them
  KvType kv_type = KvType::kF16;
  int threads = 1;
  std::string isa = "scalar";  // of the trunk
  std::string worker_isa = "scalar";
  // Where set, what makes the backends in the place of isa and threads.
  std::function<std::unique_ptr<Backend>()> make_trunk = {};
  std::function<std::unique_ptr<Backend>()> make_worker = {};
  // One worker on the trunk's own backend, whose experts the trunk runs itself; workers, transport and
  // make_worker do not matter.
  bool direct = false;
};
std::ostream& operator<<(std::ostream& os, const Scenario& scenario);

// (request, position) to the hash of the logits there. Sampled ids are in it by way of the positions that
// follow.
using LogitHashes = std::map<std::pair<std::string, int>, uint64_t>;

// Ten requests: lengths 1 to 310, greedy and sampled, one that repeats another's prompt and two that share a
// part of it.
std::vector<SequenceRequest> ScenarioRequests();

// Adds what the engine has counted to `stats`, where given, and what its backend has to `segments`.
LogitHashes RunScenario(const std::shared_ptr<const ModelSource>& source,
                        std::vector<SequenceRequest> requests, const Scenario& scenario,
                        const std::vector<TransportCase>& transports, EngineStats* stats = nullptr,
                        SegmentStats* segments = nullptr);

// Scenarios that together hold every pair of values of any two settings. Of KV types, those that fit the
// model.
std::vector<Scenario> PairwiseScenarios(int transports, const std::vector<KvType>& kv_types);
std::vector<KvType> KvTypes(const ModelConfig& config);

// Small models of each family, one with a sliding window among them, whose expert counts and sizes are
// awkward.
std::vector<std::pair<std::string, SynthSpec>> ScenarioModels();
std::shared_ptr<const ModelSource> MakeModel(const SynthSpec& spec);

}  // namespace moepool
