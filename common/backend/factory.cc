// MakeBackend: the backend that the options name, or the best that this machine and build have.
#include <memory>
#include <string>

#include "common/backend/backend.h"
#include "common/backend/cpu/cpu_backend.h"
#include "common/base/str.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

constexpr int kMaxThreads = 1024;

absl::StatusOr<const KernelTable*> ChooseKernels(const std::string& isa) {
  const KernelTable* const avx2 = Avx2Kernels();
  if (isa == "auto") return avx2 != nullptr ? avx2 : ScalarKernels();
  if (isa == "scalar") return ScalarKernels();
  if (isa == "avx2") {
    if (avx2 != nullptr) return avx2;
    return absl::FailedPreconditionError("isa avx2: this processor lacks AVX2, FMA or F16C");
  }
  return absl::InvalidArgumentError(StrCat("isa \"", isa, "\": expected auto, scalar or avx2"));
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
  auto kernels = ChooseKernels(options.isa);
  if (!kernels.ok()) return kernels.status();
  return std::make_unique<CpuBackend>(*kernels, options.threads);
}

}  // namespace moepool
