// The CUDA backend over the machine's GPU, for the suites of tests/contract/backend.
#include <utility>

#include "common/backend/cuda/cuda_backend.h"
#include "common/backend/cuda/cuda_device.h"
#include "tests/contract/backend/backend_contract.h"
#include "tests/gpu/visible_device.h"

namespace moepool {

std::vector<BackendCase> BackendCases() { return {{"cuda", 1}}; }

std::unique_ptr<Backend> MakeCase(const BackendCase&) {
  auto backend = CudaBackend::Create(MakeVisibleDevice(), {.self_check = false});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

}  // namespace moepool
