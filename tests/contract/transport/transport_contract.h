// One suite over all carriers (expert_transport.h is the contract). Included by a core test and by one with
// gRPC.
#pragma once

#include "gtest/gtest.h"
#include "tests/contract/transport/transport_fixture.h"

namespace moepool {

class TransportContractTest : public testing::TestWithParam<TransportCase> {};

}  // namespace moepool
