// What a gateway sees of a router: sequences of ids in, ids out. The engine implements it, and so does the
// gRPC client, so that gateway and engine can also share one process (`moepool serve`).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/gpu_reading.h"
#include "common/base/time_histogram.h"
#include "common/model/model_source.h"
#include "common/model/tokenizer_spec.h"

namespace moepool {

inline constexpr size_t kMaxLogitBiases = 1024;
inline constexpr int32_t kMaxTopLogprobs = 20;
inline constexpr size_t kMaxDryBreakerIds = 65'536;  // in all breakers of a request
inline constexpr size_t kMaxDryBreakerLength = 64;   // ids of one breaker

struct LogitBias {
  int32_t id = 0;
  double bias = 0;  // [-100, 100]
};

// "Don't repeat yourself", as llama.cpp defines it: an id that would prolong a repetition of the last ids,
// L ids long so far, loses multiplier * base^(L - allowed_length) where L >= allowed_length. Repetitions are
// looked for in the last penalty_last_n ids of prompt and answer, and none reaches back beyond a breaker.
struct DryParams {
  double multiplier = 0;  // [0, 100]; 0: off
  double base = 1.75;     // [1, 100]
  int32_t allowed_length = 2;
  int32_t penalty_last_n = 64;       // 0: off; -1: all
  std::vector<int32_t> breaker_ids;  // breakers of one id, which are never penalised; ascending
  std::vector<std::vector<int32_t>> breaker_sequences;  // of several ids; in lexicographic order
};

struct SamplingParams {
  double temperature = 0;  // 0: the most likely token, the lower id on a tie
  double top_p = 1;        // (0, 1]
  int32_t top_k = 0;       // 0: off
  double min_p = 0;        // [0, 1]
  uint64_t seed = 0;
  double presence_penalty = 0;    // over generated ids
  double frequency_penalty = 0;   // over generated ids
  double repetition_penalty = 1;  // over prompt and generated ids
  // Where given, the three penalties above look at the last so many ids of prompt and answer instead, as
  // llama.cpp's do. 0: none of them does anything; -1: all ids.
  std::optional<int32_t> repeat_last_n;
  DryParams dry;
  std::vector<LogitBias> logit_bias;  // ascending ids
  int32_t min_tokens = 0;             // stop ids are not sampled before so many ids have been
  bool logprobs = false;
  int32_t top_logprobs = 0;  // [0, 20]; with logprobs alone
};

// InvalidArgument names the parameter, its value and its range. NaN is out of every range.
absl::Status ValidateSampling(const SamplingParams& params);
// InvalidArgument where an id that the parameters name is not in [0, vocab_size).
absl::Status ValidateSamplingIds(const SamplingParams& params, int32_t vocab_size);

enum class FinishReason : uint8_t {
  kNone,
  kStop,
  kLength,
  kToolCalls,  // of a gateway's answers alone: stopped after calls of tools
};

// What the text of an answer must be.
struct Constraint {
  std::string grammar;        // as common/constrain/grammar.h reads it; empty: the text is free
  std::string begin_after;    // text is free up to and including the first of these; empty: from the first id
  bool may_end_free = false;  // whether the answer may end where its text is still free
  // Not empty: begin_after is looked for only behind the first of these, where the text begins with
  // thought_start (white space before it aside) or thought_start is empty.
  std::string thought_end;
  std::string thought_start;
};

// Ends thinking that goes on for too long.
struct ReasoningLimit {
  int32_t max_tokens = -1;         // ids generated before end_ids must have begun; -1: no limit
  std::vector<int32_t> start_ids;  // counts only where the answer begins with these; empty: in any case
  std::vector<int32_t> end_ids;  // taken one after another, whatever their logits, once the limit is reached
  // Where the model itself brings these, or end_ids, its thinking is over. What it puts round the marker
  // differs from answer to answer, so these are the marker's alone.
  std::vector<int32_t> close_ids;
};

struct SequenceRequest {
  std::string request_id;
  std::string traceparent;  // of W3C's trace context, for logs; may be empty
  std::vector<int32_t> prompt;
  int32_t max_tokens = 256;
  SamplingParams sampling;
  std::vector<int32_t> stop_ids;  // sampling one ends the sequence; it is not among the ids returned
  Constraint constraint;
  ReasoningLimit reasoning;
  // The first updates bring what the model gave each id of the prompt but the first, with
  // sampling.top_logprobs. The prefix cache isn't used, and max_tokens may be 0.
  bool prompt_logprobs = false;
  int32_t first_logits =
      -1;  // >= 0: nothing is generated; logits of prompt positions from here on are returned
  absl::Time deadline = absl::InfiniteFuture();
};

struct LogitsRow {
  int32_t position;
  std::vector<float> logits;  // [vocab_size]
};

struct IdLogprob {
  int32_t id = -1;
  float logprob = 0;
};

// What the model itself gave an id that was sampled: logarithms of the softmax of its logits, before biases,
// penalties and temperature.
struct TokenLogprobs {
  float logprob = 0;
  std::vector<IdLogprob> top;  // the top_logprobs most likely ids, best first
};

struct SequenceUpdate {
  std::vector<int32_t> ids;
  std::vector<TokenLogprobs> logprobs;  // one for each of ids where the request asks for them, else none
  // In order, perhaps over several updates; the last of them may come with the first ids, and stand before
  // them.
  std::vector<TokenLogprobs> prompt_logprobs;
  std::vector<LogitsRow> logits;
  // The last update; the fields below are set in it alone, but for the numbers of admission (cached_tokens,
  // queue_ms, prefill_ms), which come with the first ids too: a sequence that is cancelled has no last word
  // over gRPC.
  bool finished = false;
  absl::Status
      status;  // not OK: failed. Cancelled, DeadlineExceeded, Unavailable (no holder for an expert), …
  FinishReason reason = FinishReason::kNone;
  int32_t cached_tokens = 0;
  double queue_ms = 0;    // arrival to admission
  double prefill_ms = 0;  // admission to the first id
  // In the last update alone.
  int32_t preemptions = 0;     // times that it was put back to wait
  int32_t retries = 0;         // steps with it that were run again because a worker was lost
  std::string slowest_worker;  // the one whose round trips took longest meanwhile, all together
};

struct ModelInfo {
  std::string name;
  std::string family;
  ModelDigest digest{};
  int32_t context_tokens = 0;
  int32_t vocab_size = 0;
  int32_t layers = 0;
  int32_t experts = 0;
  int32_t experts_per_token = 0;
  bool dense = false;
  TokenizerSpec tokenizer;
};

struct PoolWorkerInfo {
  uint64_t id = 0;
  std::string name;
  std::string state;
  std::string transport;
  std::string backend;
  uint64_t memory_limit_bytes = 0;
  uint64_t expert_bytes = 0;
  int32_t experts_held = 0;
  std::string experts;
  uint64_t dispatches = 0;
  double round_trip_us = 0;
  double busy_ratio = 0;  // part of the last minute in which it was computing
  // These and `dispatches` since it joined, of dispatches that were answered in full.
  uint64_t rows = 0;         // sent to it, summed over layers
  uint64_t dispatch_us = 0;  // the router's, until its rows were encoded and handed to the transport
  uint64_t combine_us = 0;   // from its last part until the parts of all workers were added
  uint64_t compute_us = 0;   // its own, as it says
  uint64_t sent_bytes = 0;   // to it
  uint64_t received_bytes = 0;
  TimeHistogram dispatch;              // dispatch_us by size
  TimeHistogram combine;               // combine_us by size
  std::optional<GpuReading> gpu = {};  // that it computes on, as it says
};

// Of the engine since it started.
struct EngineTotals {
  uint64_t steps = 0;
  uint64_t prefill_rows = 0;
  uint64_t decode_rows = 0;
  TimeHistogram exchange;      // of a layer: first send to last part, the workers' computing included
  TimeHistogram exchange_own;  // the same less the longest that a worker or the trunk computed meanwhile
};

struct PoolInfo {
  std::string model;
  bool ready = false;
  uint64_t epoch = 0;
  std::vector<PoolWorkerInfo> workers;
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t kv_blocks = 0;
  int32_t kv_blocks_free = 0;
  std::string waiting_for;
  EngineTotals totals;
  int32_t layers = 0;                   // rows of the arrays below; 0 where experts are not counted
  int32_t experts = 0;                  // of a layer
  std::vector<uint64_t> expert_tokens;  // [layers, experts], since the start; a step run again counts again
  std::vector<uint64_t> expert_tokens_last_minute;  // [layers, experts]
  // [layers]: tokens of the worker with most of them over the workers' mean, in the last minute, with the
  // experts where they are placed now. 0 where there were none, or the pool is not ready.
  std::vector<double> load_ratio;
  std::optional<GpuReading> gpu = {};  // that the trunk computes on
};

// One running sequence. Destroying it cancels it; no update is delivered once the destructor has returned.
class TrunkCall {
 public:
  virtual ~TrunkCall() = default;
  // The sequence ends with a Cancelled update, unless it has ended already. Does not block.
  virtual void Cancel() = 0;
};

// Updates come in order, from a thread of the trunk's that must not be held up unless it lends its threads,
// and end with one that is finished.
using UpdateCallback = std::function<void(SequenceUpdate)>;

// Thread-safe.
class Trunk {
 public:
  virtual ~Trunk() = default;
  // Unavailable while the router cannot be reached.
  virtual absl::StatusOr<ModelInfo> Describe() = 0;
  virtual absl::StatusOr<PoolInfo> Pool() = 0;
  // InvalidArgument (both values named) where the request does not fit the model; ResourceExhausted where the
  // queue is full. An error after the start arrives as the last update.
  virtual absl::StatusOr<std::unique_ptr<TrunkCall>> Generate(SequenceRequest request,
                                                              UpdateCallback on_update) = 0;
  // Whether an update's thread may do some work: to make text of a few ids, and to send it.
  virtual bool lends_threads() const { return false; }
};

}  // namespace moepool
