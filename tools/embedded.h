// The whole engine in the tool's own process: model, backend, local workers. What `moepool serve` and the
// offline commands (perplexity, logits) stand on.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/backend/weight_flags.h"
#include "common/metrics/gpu_reader.h"
#include "common/model/model_source.h"
#include "router/engine.h"
#include "router/local_pool.h"

namespace CLI {
class App;
}

namespace moepool {

struct EmbeddedFlags {
  std::string model;
  int workers = 1;
  BackendOptions backend;
  WeightFlags weights;
  std::string kv_type = "f16";
  uint64_t kv_memory_bytes = uint64_t{1} << 30;
  std::string prefix_cache = "on";
  int context_tokens = 0;
  int step_tokens = 512;
  int max_running = 64;
  int max_waiting = 1024;
};

// --model --workers --backend --device --device-memory --no-cuda-graphs --isa --threads
// --weights --weights-cache --weights-cache-limit
// --kv-type
// --kv-memory --prefix-cache --context-tokens
// --step-tokens --max-running
void AddEmbeddedFlags(CLI::App* app, EmbeddedFlags* flags);

struct Embedded {
  std::shared_ptr<const ModelSource> source;
  std::unique_ptr<Backend> backend;
  std::shared_ptr<GpuReader> gpu;  // null: none, or it cannot be read
  std::unique_ptr<LocalPool> pool;
  std::unique_ptr<Engine> engine;
};
absl::StatusOr<std::unique_ptr<Embedded>> MakeEmbedded(const EmbeddedFlags& flags);

// Logits of positions first, first + 1, … of `ids`, handed to `row` in order, on a thread of the engine's.
absl::Status ScoreTokens(Engine* engine, std::vector<int32_t> ids, int first,
                         const std::function<void(const LogitsRow&)>& row);

}  // namespace moepool
