// A model of the engine without the mathematics: the real scheduler and the real KV cache, and in the place
// of keys and values a number for each position that says what must lie there. Sequences arrive, are
// cancelled, expire, fault and finish at random, steps fail, blocks run out; what every row reads through its
// table is compared with what it would have written itself.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "router/kv_cache.h"
#include "router/scheduler.h"
#include "tests/unit/router/fake_backend.h"

namespace moepool {

// Bugs that the world must find.
enum class Misdeed { kNone, kCommitsFailedSteps, kForgetsRopeSet, kKeepsCancelled, kReusesScoredPositions };

struct WorldOptions {
  uint32_t seed = 1;
  int blocks = 40;
  SchedulerLimits limits;
  bool prefix_cache = true;
  int longest_output = 30;  // but for every fourth sequence
  bool meddling = false;    // now and then a plan is set aside, and all but the oldest are preempted, or some
  Misdeed misdeed = Misdeed::kNone;
};

struct WorldCounts {
  int64_t steps = 0;
  int64_t failed_steps = 0;
  int64_t finished = 0;
  int64_t cancelled = 0;
  int64_t expired = 0;
  int64_t faulted = 0;
  int64_t preemptions = 0;
  int64_t hit_tokens = 0;
  int64_t evictions = 0;
};

class SequenceWorld {
 public:
  explicit SequenceWorld(const WorldOptions& options);
  // Until so many sequences have come and gone. Returns what went wrong first, or "".
  std::string Run(int arrivals);
  const WorldCounts& counts() const { return counts_; }

 private:
  struct Sequence {
    SequenceId id;
    int prompt = 0;
    int max_tokens = 0;
    int next_logits = -1;  // >= 0: scores
    int delivered = 0;     // positions whose logits have gone out, where it scores
    RopeSet rope = RopeSet::kShort;
    absl::Time deadline;
    std::vector<int32_t> ids;
    std::vector<uint64_t> content;  // what a position holds: follows from rope and ids up to it
    int computed = 0;

    bool scores() const { return next_logits >= 0; }
  };
  using List = std::vector<std::unique_ptr<Sequence>>;

  int Random(int n) { return static_cast<int>(rng_() % static_cast<uint32_t>(n)); }
  void Arrive();
  void Cancel();
  void Step();
  StepPlan Plan();
  StepPlan Meddle();
  void CheckPlan(const StepPlan& plan, bool meddled);
  void Follow(const StepPlan& plan);
  void Compute(const StepPlan& plan);
  void Write(const Sequence& s, const StepChunk& chunk, bool spoil);
  void Read(const Sequence& s, int begin, int end);
  void Commit(const StepChunk& chunk);
  void Append(Sequence* s, int32_t id);
  void Remove(SequenceId id, int64_t* count);
  Sequence* Running(SequenceId id);
  RopeSet KeyRope(const Sequence& s) const;
  std::span<const int32_t> Reusable(const Sequence& s) const;
  void Complain(const std::string& what);

  const WorldOptions options_;
  std::mt19937 rng_;
  FakeBackend backend_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<uint64_t> memory_;    // [blocks * 16]
  std::vector<int> tables_naming_;  // by block, during a step
  uint64_t next_id_ = 1;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  List running_;
  List waiting_;
  std::vector<SequenceView> running_views_;
  std::vector<SequenceView> waiting_views_;
  std::vector<SequenceId> running_ids_;
  std::vector<int> own_blocks_;
  bool computed_ = false;  // in this step
  WorldCounts counts_;
  std::string complaint_;
};

// Worlds of many shapes, `arrivals` sequences each, until one complains. Adds up in `counts` what has
// happened. Returns the first complaint with the world's options, or "".
std::string RunWorlds(int worlds, int arrivals, Misdeed misdeed, WorldCounts* counts);

}  // namespace moepool
