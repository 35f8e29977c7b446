#include "tests/contract/transport/nccl_harness.h"
#include "tests/contract/transport/transport_contract.h"

namespace moepool {

INSTANTIATE_TEST_SUITE_P(Nccl, TransportContractTest, testing::ValuesIn(MoreNcclTransportCases()),
                         [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(Core, TransportContractTest, testing::ValuesIn(CoreTransportCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace moepool
