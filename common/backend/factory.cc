// MakeBackend: the backend that the options name, or the best that this machine and build have.
#include <memory>
#include <string>
#include <string_view>

#include "common/backend/backend.h"
#include "common/backend/cpu/cpu_backend.h"
#include "common/base/str.h"
#include "common/kernels/kernels.h"

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

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const BackendOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        StrCat("threads ", options.threads, ": expected 0 (one a core) to ", kMaxThreads));
  }
  if (options.backend == "cuda") return absl::FailedPreconditionError("this build has no CUDA backend");
  if (options.backend != "auto" && options.backend != "cpu") {
    return absl::InvalidArgumentError(
        StrCat("backend \"", options.backend, "\": expected auto, cpu or cuda"));
  }
  if (options.device_memory_bytes != 0) {
    return absl::FailedPreconditionError(StrCat("device-memory ", options.device_memory_bytes,
                                                ": the backend is cpu, which has no memory of a device"));
  }
  auto kernels = ChooseKernels(options.isa);
  if (!kernels.ok()) return kernels.status();
  return std::make_unique<CpuBackend>(*kernels, options.threads, options.weights);
}

}  // namespace moepool
