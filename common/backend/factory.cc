// MakeBackend: the backend that the options name, or the best that this machine and build have. The one file
// that knows whether CUDA is in the build.
#include <memory>
#include <string>
#include <string_view>

#include "common/backend/backend.h"
#include "common/backend/cpu/cpu_backend.h"
#include "common/base/log.h"
#include "common/base/str.h"
#include "common/kernels/kernels.h"

#if MOEPOOL_CUDA
#include "common/backend/cuda/cuda_backend.h"
#include "common/backend/cuda/cuda_device.h"
#endif

namespace moepool {
namespace {

constexpr int kMaxThreads = 1024;
#if MOEPOOL_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

// Every name with what a processor needs for it.
constexpr struct {
  std::string_view name;
  const char* needs;
} kIsas[] = {{"scalar", "nothing"},
             {"avx2", "AVX2, FMA or F16C"},
             {"avx512", "AVX-512 F, BW, DQ or VL"},
             {"avx512vnni", "AVX-512 F, BW, DQ, VL or VNNI"}};

absl::StatusOr<const KernelTable*> ChooseKernels(const std::string& isa) {
  if (isa == "auto") return AvailableKernels().back();
  for (const KernelTable* kernels : AvailableKernels()) {
    if (isa == kernels->name) return kernels;
  }
  for (const auto& known : kIsas) {
    if (isa == known.name) {
      return absl::FailedPreconditionError(StrCat("isa ", isa, ": this processor lacks ", known.needs));
    }
  }
  return absl::InvalidArgumentError(
      StrCat("isa \"", isa, "\": expected auto, scalar, avx2, avx512 or avx512vnni"));
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCuda([[maybe_unused]] const BackendOptions& options) {
#if MOEPOOL_CUDA
  absl::StatusOr<std::unique_ptr<Device>> device = MakeCudaDevice(options.device);
  if (!device.ok()) return device.status();
  const std::string name = (*device)->Description();
  CudaOptions cuda_options;
  cuda_options.memory_limit_bytes = options.device_memory_bytes;
  cuda_options.pinned_limit_bytes = options.pinned_memory_bytes;
  cuda_options.fused = options.fused;
  cuda_options.weights = options.weights;
  if (!options.cuda_graphs) cuda_options.most_graph_pieces = 0;
  absl::StatusOr<std::unique_ptr<CudaBackend>> backend =
      CudaBackend::Create(*std::move(device), cuda_options);
  if (backend.ok()) {
    Log(LogLevel::kInfo, "a GPU is used", {{"device", options.device}, {"name", name}});
  }
  return backend;
#else
  return absl::FailedPreconditionError("this build has none (MOEPOOL_CUDA)");
#endif
}

// Null where `auto` is to take the CPU.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaIfWanted(const BackendOptions& options) {
  if (options.backend == "cpu" || (options.backend == "auto" && !kHasCuda)) return nullptr;
  absl::StatusOr<std::unique_ptr<Backend>> backend = MakeCuda(options);
  if (backend.ok()) return backend;
  const absl::Status& status = backend.status();
  // A number that no GPU has is a mistake of whoever gave it, and memory that is short will be short again.
  const bool passes = absl::IsFailedPrecondition(status) || absl::IsUnavailable(status);
  if (options.backend == "cuda" || !passes) {
    return absl::Status(status.code(), StrCat("backend cuda: ", ToStd(status.message())));
  }
  Log(LogLevel::kInfo, "no GPU is used", {{"reason", ToStd(status.message())}});
  return nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const BackendOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        StrCat("threads ", options.threads, ": expected 0 (one a core) to ", kMaxThreads));
  }
  if (options.device < 0) {
    return absl::InvalidArgumentError(StrCat("device ", options.device, ": expected 0 or more"));
  }
  if (options.backend != "auto" && options.backend != "cpu" && options.backend != "cuda") {
    return absl::InvalidArgumentError(
        StrCat("backend \"", options.backend, "\": expected auto, cpu or cuda"));
  }
  auto kernels = ChooseKernels(options.isa);
  if (!kernels.ok()) return kernels.status();
  absl::StatusOr<std::unique_ptr<Backend>> cuda = MakeCudaIfWanted(options);
  if (!cuda.ok() || *cuda != nullptr) return cuda;
  if (options.pinned_memory_bytes != 0) {
    return absl::FailedPreconditionError(StrCat("pinned-memory ", options.pinned_memory_bytes,
                                                ": the backend is cpu, whose memory is the host's"));
  }
  if (!options.fused) {
    return absl::FailedPreconditionError("no-fusion: the backend is cpu, which has no kernels apart");
  }
  if (options.device_memory_bytes != 0) {
    return absl::FailedPreconditionError(StrCat("device-memory ", options.device_memory_bytes,
                                                ": the backend is cpu, which has no memory of a device"));
  }
  return std::make_unique<CpuBackend>(*kernels, options.threads, options.weights);
}

}  // namespace moepool
