// See embedded.h.
#include "tools/embedded.h"

#include "CLI/CLI.hpp"
#include "absl/synchronization/notification.h"
#include "common/base/config.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/metrics/gpu_reader.h"
#include "common/model/gguf_source.h"

namespace moepool {

void AddEmbeddedFlags(CLI::App* app, EmbeddedFlags* flags) {
  app->add_option("--model", flags->model, "GGUF file")->required();
  app->add_option("--workers", flags->workers, "expert workers in this process")->check(CLI::Range(1, 1024));
  app->add_option("--backend", flags->backend.backend, "auto, cpu or cuda");
  app->add_option("--device", flags->backend.device, "cuda: which of the machine's GPUs, counted from 0")
      ->check(CLI::Range(0, 1023));
  app->add_option("--isa", flags->backend.isa, "cpu: auto, scalar, avx2, avx512 or avx512vnni");
  app->add_option("--threads", flags->backend.threads, "0: one a core")->check(CLI::Range(0, 1024));
  app->add_option(
         "--device-memory", flags->backend.device_memory_bytes,
         "of the cuda backend: most memory of the GPU, in bytes or as 20GiB; 0: what is free, less a "
         "margin")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true));
  AddOffFlag(app, "--no-cuda-graphs", &flags->backend.cuda_graphs,
             "of the cuda backend: queue every kernel of small steps anew");
  AddWeightFlags(app, &flags->weights);
  app->add_option("--kv-type", flags->kv_type, "KV cache: f16, bf16, q8_0 or f32");
  app->add_option("--kv-memory", flags->kv_memory_bytes, "bytes for the KV cache")
      ->transform(CLI::AsSizeValue(false));
  app->add_option("--prefix-cache", flags->prefix_cache, "keep prefixes in the KV cache: on or off")
      ->check(CLI::IsMember({"on", "off"}));
  app->add_option("--context-tokens", flags->context_tokens, "0: the model's own")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--step-tokens", flags->step_tokens, "rows of a step at most")->check(CLI::Range(1, 65536));
  app->add_option("--max-running", flags->max_running, "sequences in a step at most")
      ->check(CLI::Range(1, 65536));
}

absl::StatusOr<std::unique_ptr<Embedded>> MakeEmbedded(const EmbeddedFlags& flags) {
  auto embedded = std::make_unique<Embedded>();
  MOEPOOL_ASSIGN_OR_RETURN(embedded->source, OpenGguf(flags.model));
  BackendOptions backend = flags.backend;
  MOEPOOL_ASSIGN_OR_RETURN(backend.weights, ToWeightOptions(flags.weights));
  MOEPOOL_ASSIGN_OR_RETURN(embedded->backend, MakeBackend(backend));
  MOEPOOL_ASSIGN_OR_RETURN(embedded->pool,
                           LocalPool::Create(embedded->source, embedded->backend.get(), flags.workers));
  const ModelConfig& config = embedded->source->Config();
  MOEPOOL_RETURN_IF_ERROR(
      embedded->backend->ReserveExperts(config.hidden, LargestDispatch(config, flags.step_tokens)));
  EngineOptions options;
  options.limits.token_budget = flags.step_tokens;
  options.limits.max_running = flags.max_running;
  options.max_waiting = flags.max_waiting;
  MOEPOOL_ASSIGN_OR_RETURN(options.kv_type, ParseKvType(flags.kv_type));
  options.kv_bytes = flags.kv_memory_bytes;
  options.prefix_cache = flags.prefix_cache == "on";
  options.context_tokens = flags.context_tokens;
  embedded->gpu = OpenGpuReader(embedded->backend->Gpu().pci_bus_id);
  if (embedded->gpu != nullptr) options.read_gpu = [gpu = embedded->gpu] { return gpu->Read(); };
  MOEPOOL_ASSIGN_OR_RETURN(embedded->engine, Engine::Create(embedded->backend.get(), embedded->source,
                                                            embedded->pool.get(), options));
  return embedded;
}

absl::Status ScoreTokens(Engine* engine, std::vector<int32_t> ids, int first,
                         const std::function<void(const LogitsRow&)>& row) {
  SequenceRequest request;
  request.request_id = "score";
  request.prompt = std::move(ids);
  request.first_logits = first;
  absl::Notification done;
  absl::Status status;
  absl::StatusOr<std::unique_ptr<TrunkCall>> call =
      engine->Generate(std::move(request), [&](const SequenceUpdate& update) {
        for (const LogitsRow& logits : update.logits) row(logits);
        if (!update.finished) return;
        status = update.status;
        done.Notify();
      });
  if (!call.ok()) return call.status();
  done.WaitForNotification();
  return status;
}

}  // namespace moepool
