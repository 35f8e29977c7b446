// The carriers of a gRPC-free build.
#include "tests/contract/transport/transport_fixture.h"

namespace moepool {

std::vector<TransportCase> DeterminismTransports() { return CoreTransportCases(); }

}  // namespace moepool
