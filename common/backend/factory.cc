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

// Null where the machine or the build has no GPU that would do and `auto` therefore takes the CPU.
absl::StatusOr<std::unique_ptr<Backend>> MakeCuda([[maybe_unused]] const BackendOptions& options) {
#if MOEPOOL_CUDA
  absl::StatusOr<std::unique_ptr<Device>> device = MakeCudaDevice(options.device);
  if (!device.ok()) {
    const absl::Status& status = device.status();
    // A number that no GPU has is a mistake of whoever gave it, and the others must not be left unused for
    // it.
    if (options.backend == "cuda" || absl::IsInvalidArgument(status)) {
      return absl::Status(status.code(), StrCat("backend cuda: ", ToStd(status.message())));
    }
    Log(LogLevel::kInfo, "no GPU is used", {{"reason", ToStd(status.message())}});
    return nullptr;
  }
  Log(LogLevel::kInfo, "a GPU is used", {{"device", options.device}, {"name", (*device)->Description()}});
  return CudaBackend::Create(*std::move(device), {});
#else
  if (options.backend == "cuda") {
    return absl::FailedPreconditionError("backend cuda: this build has none (MOEPOOL_CUDA)");
  }
  return nullptr;
#endif
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
  if (options.backend != "cpu") {
    absl::StatusOr<std::unique_ptr<Backend>> cuda = MakeCuda(options);
    if (!cuda.ok() || *cuda != nullptr) return cuda;
  }
  return std::make_unique<CpuBackend>(*kernels, options.threads, options.weights);
}

}  // namespace moepool
