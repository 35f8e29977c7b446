// The machine's GPU.
#include "tests/determinism/cuda_test.h"

namespace moepool {

std::unique_ptr<Backend> MakeCuda() { return MakeBackend({.backend = "cuda"}).value(); }

std::vector<SequenceRequest> CudaRequests() { return ScenarioRequests(); }

// The stand-in's device memory is no GPU's.
std::vector<TransportCase> CudaTransports() { return {CoreTransportCases().front()}; }

}  // namespace moepool
