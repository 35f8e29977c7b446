// The CUDA backend over the emulated device. The suites reach into device memory without the seam, so that
// work is done as it is queued; that nothing depends on this is shown where whole models run.
#include "common/backend/cuda/cuda_backend.h"
#include "tests/contract/backend/backend_contract.h"
#include "tests/support/simt/emulated_device.h"

namespace moepool {

std::vector<BackendCase> BackendCases() { return {{"cuda", 1}}; }

std::unique_ptr<Backend> MakeCase(const BackendCase&) {
  EmulatedDeviceOptions options;
  options.eager = true;
  auto backend = CudaBackend::Create(std::make_unique<EmulatedDevice>(options), {.self_check = false});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

}  // namespace moepool
