// What cuda_test.cc asks of the binary that it is in.
#pragma once

#include <memory>
#include <vector>

#include "common/backend/backend.h"
#include "tests/determinism/scenario.h"

namespace moepool {

std::unique_ptr<Backend> MakeCuda();
std::vector<SequenceRequest> CudaRequests();
// The first of them keeps frames in the host's memory.
std::vector<TransportCase> CudaTransports();

}  // namespace moepool
