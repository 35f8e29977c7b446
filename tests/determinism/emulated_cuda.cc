// The emulated device, which does its work as late as a GPU may. A few short requests, one of which crosses a
// block of the cache.
#include <algorithm>

#include "common/backend/cuda/cuda_backend.h"
#include "tests/contract/transport/nccl_harness.h"
#include "tests/determinism/cuda_test.h"
#include "tests/support/simt/emulated_device.h"

namespace moepool {

std::unique_ptr<Backend> MakeCuda() {
  return CudaBackend::Create(std::make_unique<EmulatedDevice>(), {.self_check = false}).value();
}

std::vector<TransportCase> CudaTransports() {
  return {CoreTransportCases().front(), NcclOnDeviceTransportCase()};
}

std::vector<SequenceRequest> CudaRequests() {
  std::vector<SequenceRequest> requests = ScenarioRequests();
  std::erase_if(requests, [](const SequenceRequest& request) { return request.prompt.size() > 100; });
  for (SequenceRequest& request : requests) request.max_tokens = 3;
  return requests;
}

}  // namespace moepool
