// See engine.h.
#include "router/engine.h"

#include <algorithm>
#include <cstring>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/trace.h"

namespace moepool {
namespace {

// How often the engine looks for a new routing table while it has none, or none that works.
constexpr absl::Duration kRoutesPoll = absl::Milliseconds(2);

}  // namespace

absl::StatusOr<KvType> ParseKvType(const std::string& text) {
  if (text == "f16") return KvType::kF16;
  if (text == "bf16") return KvType::kBF16;
  if (text == "q8_0") return KvType::kQ8_0;
  if (text == "f32") return KvType::kF32;
  return absl::InvalidArgumentError(StrCat("KV type is ", text, ", must be f16, bf16, q8_0 or f32"));
}

class Engine::Call : public TrunkCall {
 public:
  Call(std::shared_ptr<RequestQueue> queue, SequenceId id, std::shared_ptr<UpdateGate> gate)
      : queue_(std::move(queue)), id_(id), gate_(std::move(gate)) {}
  ~Call() override {
    gate_->Detach();
    queue_->Cancel(id_);
  }
  void Cancel() override { queue_->Cancel(id_); }

 private:
  const std::shared_ptr<RequestQueue> queue_;
  const SequenceId id_;
  const std::shared_ptr<UpdateGate> gate_;
};

Engine::Engine(Backend* backend, std::shared_ptr<const ModelSource> source, ExpertPool* pool,
               EngineOptions options)
    : backend_(backend),
      source_(std::move(source)),
      pool_(pool),
      options_(std::move(options)),
      constraints_(source_),
      queue_(std::make_shared<RequestQueue>(options_.max_waiting)) {}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(Backend* backend,
                                                       std::shared_ptr<const ModelSource> source,
                                                       ExpertPool* pool, EngineOptions options) {
  std::unique_ptr<Engine> engine(new Engine(backend, std::move(source), pool, std::move(options)));
  MOEPOOL_RETURN_IF_ERROR(engine->Start());
  return engine;
}

absl::Status Engine::Start() {
  const ModelConfig& config = source_->Config();
  // A dispatch that no transport can carry would look like the loss of its worker.
  const uint64_t row_bytes =
      static_cast<uint64_t>(config.hidden) * sizeof(float) +
      static_cast<uint64_t>(config.experts_per_token) * (sizeof(WirePart) + sizeof(ExpertEntry));
  const uint64_t most_rows = (kMaxDispatchFrameBytes - 2 * sizeof(FrameHeader)) / row_bytes;
  if (options_.limits.token_budget > static_cast<int64_t>(most_rows)) {
    return absl::InvalidArgumentError(StrCat("steps of ", options_.limits.token_budget,
                                             " tokens were asked for; a dispatch holds ", most_rows,
                                             " rows of ", row_bytes, " bytes"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(digest_, source_->Digest());
  MOEPOOL_ASSIGN_OR_RETURN(
      decoder_, Decoder::Create(backend_, source_, options_.limits.token_budget, options_.decoder));

  MOEPOOL_RETURN_IF_ERROR(StartKvCache());
  uint64_t digest8 = 0;
  std::memcpy(&digest8, digest_.data(), sizeof(digest8));
  dispatcher_ = std::make_unique<Dispatcher>(config, digest8, pool_, options_.dispatch, options_.identity);
  options_.limits.block_tokens = kKvBlockTokens;
  options_.limits.window_tokens = config.sliding_window;
  scheduler_ = options_.make_scheduler(options_.limits);
  PublishStats();
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

absl::Status Engine::StartKvCache() {
  const ModelConfig& config = source_->Config();
  const uint64_t block_bytes = KvCache::BlockBytes(config, options_.kv_type);
  const uint64_t blocks = options_.kv_bytes / block_bytes;
  if (blocks == 0 || blocks > uint64_t{1} << 30) {
    return absl::InvalidArgumentError(StrCat("KV cache of ", options_.kv_bytes, " bytes makes ", blocks,
                                             " blocks of ", block_bytes, " bytes; 1 to 2^30 are possible"));
  }
  const KvCacheOptions kv{options_.kv_type, static_cast<int>(blocks), options_.prefix_cache};
  MOEPOOL_ASSIGN_OR_RETURN(kv_, KvCache::Create(backend_, config, kv));
  // The longest sequence that fits alone. Where a window fits, any does: blocks behind it are freed.
  const bool window_fits = config.sliding_window > 0 && kv.blocks >= KvBlocksOfWindow(config.sliding_window);
  const int64_t kv_tokens =
      window_fits ? config.context_tokens : static_cast<int64_t>(blocks) * kKvBlockTokens;
  context_tokens_ = static_cast<int>(std::min<int64_t>(config.context_tokens, kv_tokens));
  if (options_.context_tokens == 0) return absl::OkStatus();
  if (options_.context_tokens > context_tokens_) {
    return absl::InvalidArgumentError(StrCat("a context of ", options_.context_tokens,
                                             " tokens was asked for; the model has ", config.context_tokens,
                                             ", the KV cache holds ", kv_tokens));
  }
  context_tokens_ = options_.context_tokens;
  return absl::OkStatus();
}

Engine::~Engine() {
  queue_->Close();
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<ModelInfo> Engine::Describe() {
  const ModelConfig& config = source_->Config();
  ModelInfo info;
  info.name = config.name;
  info.family = config.family;
  info.digest = digest_;
  info.context_tokens = context_tokens_;
  info.vocab_size = config.vocab_size;
  info.layers = config.layers;
  info.experts = config.experts;
  info.experts_per_token = config.experts_per_token;
  info.dense = config.dense();
  info.tokenizer = source_->Tokenizer();
  return info;
}

absl::StatusOr<PoolInfo> Engine::Pool() {
  const EngineStats stats = Stats();
  PoolInfo info;
  info.model = source_->Config().name;
  const std::shared_ptr<const RoutingTable> routes = pool_->Routes();
  info.ready = routes != nullptr;
  if (routes != nullptr) info.epoch = routes->epoch;
  if (!info.ready) info.waiting_for = pool_->WaitingFor();
  info.workers = pool_->Workers();
  info.running = stats.running;
  info.waiting = stats.waiting;
  info.kv_blocks = stats.kv_blocks;
  info.kv_blocks_free = stats.kv_blocks_free;
  info.totals.steps = stats.steps;
  info.totals.prefill_rows = stats.prefill_rows;
  info.totals.decode_rows = stats.decode_rows;
  info.totals.exchange = stats.dispatch.exchange;
  info.totals.exchange_own = stats.dispatch.exchange_own;
  const ModelConfig& config = source_->Config();
  info.layers = config.layers;
  info.experts = config.experts;
  ExpertLoad::Tokens tokens = dispatcher_->load().Read(absl::Now());
  info.load_ratio.resize(static_cast<size_t>(config.layers), 0);
  if (routes != nullptr) {
    info.load_ratio = LoadRatios(tokens.last_minute, *routes, config.layers, config.experts);
  }
  info.expert_tokens = std::move(tokens.all);
  info.expert_tokens_last_minute = std::move(tokens.last_minute);
  if (options_.read_gpu != nullptr) info.gpu = options_.read_gpu();
  return info;
}

absl::StatusOr<std::unique_ptr<TrunkCall>> Engine::Generate(SequenceRequest request,
                                                            UpdateCallback on_update) {
  MOEPOOL_RETURN_IF_ERROR(CheckRequest(request));
  auto sequence = std::make_unique<Sequence>();
  if (!request.constraint.grammar.empty()) {
    MOEPOOL_ASSIGN_OR_RETURN(sequence->constraint, constraints_.Start(request.constraint));
  }
  const SequenceId id(next_id_.fetch_add(1));
  auto gate = std::make_shared<UpdateGate>(std::move(on_update));
  sequence->id = id;
  sequence->gate = gate;
  sequence->tokens = request.prompt;
  sequence->tokens.reserve(request.prompt.size() + static_cast<size_t>(std::max(0, request.max_tokens)));
  sequence->request = std::move(request);
  sequence->rope = RopeSetFor(source_->Config().rope, sequence->reach_tokens());
  sequence->next_logits = sequence->request.prompt_logprobs ? 0 : sequence->request.first_logits;
  sequence->arrived = absl::Now();
  accepted_.fetch_add(1);
  if (absl::Status pushed = queue_->Push(std::move(sequence)); !pushed.ok()) {
    MutexLock lock(&stats_mutex_);
    accepted_.fetch_sub(1);
    stats_changed_.NotifyAll();  // WaitIdle may have counted it
    return pushed;
  }
  return std::make_unique<Call>(queue_, id, std::move(gate));
}

void Engine::StopAccepting() { queue_->Refuse(); }

EngineStats Engine::Stats() const {
  MutexLock lock(&stats_mutex_);
  return published_;
}

bool Engine::WaitIdle(absl::Duration patience) {
  const absl::Time until = absl::Now() + patience;
  MutexLock lock(&stats_mutex_);
  while (published_.finished + published_.failed < accepted_.load()) {
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    stats_changed_.WaitFor(&stats_mutex_, absl::ToChronoNanoseconds(std::min(left, absl::Hours(1))));
  }
  return true;
}

void Engine::Loop() {
  NameTraceThread("engine");
  bool stranded = false;
  while (true) {
    const bool busy = !running_.empty() || !waiting_.empty();
    const absl::Duration patience =
        !busy ? absl::InfiniteDuration() : (stranded ? kRoutesPoll : absl::ZeroDuration());
    RequestQueue::Batch batch = queue_->Take(patience, static_cast<int>(waiting_.size()));
    const bool closed = batch.closed;
    Accept(std::move(batch));
    PublishStats();
    if (closed) break;
    const std::shared_ptr<const RoutingTable> routes = pool_->Routes();
    absl::Status step;
    if (routes != nullptr) step = Step(routes);
    stranded = routes == nullptr || !step.ok();
    if (stranded) {
      FailStranded(step);
    } else {
      stranded_since_ = absl::InfiniteFuture();
    }
    PublishStats();
  }
  const auto fail_all = [this](const std::vector<std::unique_ptr<Sequence>>& sequences) {
    std::vector<SequenceId> ids;
    for (const auto& s : sequences) ids.push_back(s->id);
    for (const SequenceId id : ids) Fail(id, absl::UnavailableError("the router is shutting down"));
  };
  fail_all(running_);
  fail_all(waiting_);
  PublishStats();
}

void Engine::Accept(RequestQueue::Batch batch) {
  for (auto& sequence : batch.arrived) {
    TraceAsyncBegin("sequence", sequence->id.value(), {"prompt_tokens", sequence->prompt_tokens()});
    waiting_.push_back(std::move(sequence));
  }
  for (const SequenceId id : batch.cancelled) {
    if (Find(id) != nullptr) Fail(id, absl::CancelledError("the request was cancelled"));
  }
}

void Engine::FailStranded(const absl::Status& step) {
  const absl::Time now = absl::Now();
  stranded_since_ = std::min(stranded_since_, now);
  const auto cause = [&] {
    return step.ok() ? StrCat("experts have no holder: ", pool_->WaitingFor())
                     : StrCat("no step succeeds: ", ToStd(step.message()));
  };
  std::vector<std::pair<SequenceId, absl::Status>> failed;
  const auto look = [&](const std::vector<std::unique_ptr<Sequence>>& sequences) {
    for (const auto& s : sequences) {
      if (s->request.deadline <= now) {
        failed.emplace_back(s->id,
                            absl::DeadlineExceededError("the deadline passed while experts had no holder"));
      } else if (std::max(s->arrived, stranded_since_) + options_.no_holder_timeout <= now) {
        failed.emplace_back(s->id, absl::UnavailableError(cause()));
      }
    }
  };
  look(running_);
  look(waiting_);
  for (auto& [id, status] : failed) Fail(id, std::move(status));
}

Sequence* Engine::Find(SequenceId id) {
  for (const auto* list : {&running_, &waiting_}) {
    for (const auto& s : *list) {
      if (s->id == id) return s.get();
    }
  }
  return nullptr;
}

void Engine::Finish(SequenceId id, SequenceUpdate update) {
  std::unique_ptr<Sequence> sequence;
  for (auto* list : {&running_, &waiting_}) {
    const auto it = std::find_if(list->begin(), list->end(), [id](const auto& s) { return s->id == id; });
    if (it == list->end()) continue;
    sequence = std::move(*it);
    list->erase(it);
    break;
  }
  MOEPOOL_CHECK(sequence != nullptr);
  TraceAsyncEnd("sequence", id.value(), {"tokens", sequence->generated()});
  kv_->Release(id);
  (update.status.ok() ? stats_.finished : stats_.failed) += 1;
  update.finished = true;
  Account(*sequence, &update);
  sequence->gate->Deliver(std::move(update));
}

void Engine::Fail(SequenceId id, absl::Status status) {
  SequenceUpdate update;
  update.status = std::move(status);
  Finish(id, std::move(update));
}

void Engine::PublishStats() {
  stats_.running = static_cast<int>(running_.size());
  stats_.waiting = static_cast<int>(waiting_.size());
  stats_.kv_blocks = kv_->blocks();
  stats_.kv_blocks_free = kv_->free_blocks();
  stats_.kv_blocks_cached = kv_->cached_blocks();
  stats_.kv_blocks_evicted = kv_->evicted_blocks();
  stats_.dispatch = dispatcher_->totals();
  MutexLock lock(&stats_mutex_);
  published_ = stats_;
  stats_changed_.NotifyAll();
}

}  // namespace moepool
