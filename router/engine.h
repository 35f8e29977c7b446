// The step loop: takes what has arrived, asks the scheduler what to compute, runs the decoder, samples, and
// hands ids to their callers. One thread owns sequences, KV cache and decoder; callers meet it in the
// RequestQueue alone.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/trunk/trunk.h"
#include "router/constraints.h"
#include "router/decoder.h"
#include "router/dispatch.h"
#include "router/kv_cache.h"
#include "router/pool.h"
#include "router/request_queue.h"
#include "router/sampler.h"
#include "router/scheduler.h"

namespace moepool {

// f16, bf16, q8_0 or f32. InvalidArgument names them and what was given.
absl::StatusOr<KvType> ParseKvType(const std::string& text);

// Sees the logits behind each sampled id and each position of a prompt whose logits are wanted, before
// anything changes them.
using LogitsObserver =
    std::function<void(const std::string& request_id, int position, std::span<const float> logits)>;

using SchedulerFactory = std::function<std::unique_ptr<Scheduler>(const SchedulerLimits&)>;

struct EngineOptions {
  SchedulerLimits limits;  // block_tokens and window_tokens are the engine's
  SchedulerFactory make_scheduler = MakeContinuousBatching;
  KvType kv_type = KvType::kF16;
  uint64_t kv_bytes = uint64_t{1} << 30;  // for the KV cache, at least one block
  bool prefix_cache = true;
  int context_tokens = 0;  // 0: the model's own; never above it or what the KV cache holds
  int max_waiting = 1024;
  // How long a sequence waits without a step that succeeds: for lost experts to find a new home, and for
  // workers that are lost again and again.
  absl::Duration no_holder_timeout = absl::Seconds(15);
  DispatchTimeouts dispatch;
  // In how many micro-batches steps go through the layers; 0: in one or two, whichever is faster. Steps whose
  // experts the trunk runs go in one.
  int micro_batches = 0;
  RouterIdentity identity = RandomIdentity();
  // The log has a line for each sequence that took this long from its arrival to its end.
  absl::Duration slow_request = absl::InfiniteDuration();
  LogitsObserver on_logits;  // called on the engine's thread
  DecoderHooks decoder;
  // Of the GPU that the backend computes on, for Pool(); called by any thread. May be empty.
  std::function<std::optional<GpuReading>()> read_gpu = {};
};

struct EngineStats {
  uint64_t steps = 0;
  uint64_t prefill_rows = 0;
  uint64_t decode_rows = 0;
  uint64_t failed_steps = 0;     // given up because a worker was lost, and run again
  uint64_t abandoned_steps = 0;  // given up because nobody wanted them any more
  uint64_t finished = 0;
  uint64_t failed = 0;
  uint64_t preemptions = 0;
  uint64_t prefix_queries = 0;  // tokens looked up in the prefix cache, once for each sequence,
  uint64_t prefix_hits = 0;     // and found there
  uint64_t kv_blocks_evicted = 0;
  std::array<uint64_t, kMicroBatches> steps_by_micro_batches{};  // [micro-batches - 1], of `steps`
  double step_seconds = 0;
  double constraint_mask_seconds = 0;  // finding out which ids constraints allow
  int last_step_rows = 0;
  int running = 0;
  int waiting = 0;
  int kv_blocks = 0;
  int kv_blocks_free = 0;    // that no sequence holds
  int kv_blocks_cached = 0;  // of these, the ones that keep a prefix for later
  DispatchTotals dispatch;
};

class Engine : public Trunk {
 public:
  // Loads the trunk and starts the thread. `backend` and `pool` outlive the engine. ResourceExhausted names
  // the bytes.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(Backend* backend,
                                                        std::shared_ptr<const ModelSource> source,
                                                        ExpertPool* pool, EngineOptions options);
  // Running sequences end with Unavailable. Calls may outlive the engine.
  ~Engine() override;

  absl::StatusOr<ModelInfo> Describe() override;
  absl::StatusOr<PoolInfo> Pool() override;
  absl::StatusOr<std::unique_ptr<TrunkCall>> Generate(SequenceRequest request,
                                                      UpdateCallback on_update) override;

  EngineStats Stats() const;
  // From now on Generate is Unavailable; what was accepted goes on.
  void StopAccepting();
  // Waits until nothing runs and nothing waits; false where `patience` passed first. What draining waits for.
  bool WaitIdle(absl::Duration patience);

 private:
  class Call;

  Engine(Backend* backend, std::shared_ptr<const ModelSource> source, ExpertPool* pool,
         EngineOptions options);
  absl::Status Start();
  absl::Status StartKvCache();
  absl::Status CheckRequest(const SequenceRequest& request) const;
  absl::Status CheckReasoning(const ReasoningLimit& limit) const;

  // All below: the engine's thread.
  void Loop();
  void Accept(RequestQueue::Batch batch);
  // Ends those that have waited too long. `step`: how the last step failed, or OK where there are no routes.
  void FailStranded(const absl::Status& step);
  // Whether all sequences of the step under way have been cancelled or have run out of time.
  bool StepIsVain();
  // In how many micro-batches the step of rows_ is to go through the layers.
  int MicroBatchesOfStep(const RoutingTable& routes) const;
  // Unavailable: the step is to be run again.
  absl::Status Step(const std::shared_ptr<const RoutingTable>& routes);
  void MakePlan();
  void Expire(std::span<const SequenceId> ids);
  void Preempt(std::span<const SequenceId> ids);
  void Admit(std::span<const SequenceId> ids);
  void BuildRows(std::span<const StepChunk> chunks);
  // What the first ids and the last update say of the sequence's way to them.
  static void AnnotateTimes(const Sequence& s, SequenceUpdate* update);
  // How the sequence's next id is picked, where its logits are not needed for more.
  std::optional<PickParams> PickOf(const Sequence& sequence) const;
  static SampleContext ContextOf(const Sequence& sequence);
  void OnPicked(int row, int32_t id);
  void OnLogits(int row, std::span<float> logits);
  absl::StatusOr<SampledToken> SampleNext(Sequence* sequence, std::span<float> logits);
  void Commit(size_t chunk);
  // Ends the sequence with `update`, which is marked finished, and frees what it holds.
  void Finish(SequenceId id, SequenceUpdate update);
  void Fail(SequenceId id, absl::Status status);
  // What the last update says of the sequence's way, and what the log does where it was slow.
  void Account(const Sequence& s, SequenceUpdate* update);
  const std::string& WorkerName(WorkerId worker);
  Sequence* Find(SequenceId id);
  void PublishStats();

  struct ChunkResult {
    Sequence* sequence = nullptr;
    size_t first_row = 0;
    absl::StatusOr<SampledToken> sampled = SampledToken{};
    std::vector<LogitsRow> logits;
    std::vector<TokenLogprobs> prompt_logprobs;
    absl::Status prompt_status;
  };

  Backend* const backend_;
  const std::shared_ptr<const ModelSource> source_;
  ExpertPool* const pool_;
  EngineOptions options_;
  ModelDigest digest_{};
  int context_tokens_ = 0;
  Constraints constraints_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<Scheduler> scheduler_;
  MicroBatchChooser micro_batches_;
  const std::shared_ptr<RequestQueue> queue_;  // shared with the calls
  std::atomic<uint64_t> next_id_ = 1;
  std::atomic<uint64_t> accepted_ =
      0;  // sequences that were pushed; each is counted as finished or failed in the end
  std::thread thread_;

  std::vector<std::unique_ptr<Sequence>> running_;      // in order of admission
  std::vector<std::unique_ptr<Sequence>> waiting_;      // in order of arrival
  absl::Time stranded_since_ = absl::InfiniteFuture();  // no step has succeeded since
  EngineStats stats_;
  std::map<WorkerId, std::string> worker_names_;

  // The step under way.
  StepPlan plan_;
  std::vector<SequenceView> running_views_;
  std::vector<SequenceView> waiting_views_;
  std::vector<SequenceId> running_ids_;
  std::vector<int> own_blocks_;
  std::vector<StepRow> rows_;
  std::vector<size_t> chunk_of_row_;
  std::vector<uint8_t> faults_;
  std::vector<ChunkResult> results_;
  absl::Time step_deadline_;  // the last of its sequences'

  mutable Mutex stats_mutex_;
  CondVar stats_changed_;
  EngineStats published_ GUARDED_BY(stats_mutex_);
};

}  // namespace moepool
