// Every carrier.
#include "tests/contract/transport/grpc_harness.h"

namespace moepool {

std::vector<TransportCase> DeterminismTransports() {
  std::vector<TransportCase> cases = CoreTransportCases();
  cases.push_back(GrpcTransportCase());
  return cases;
}

}  // namespace moepool
