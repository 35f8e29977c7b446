#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "common/rpc/rpc_channel.h"
#include "common/transport/grpc_frame.h"
#include "common/transport/grpc_transport.h"
#include "grpcpp/server_context.h"
#include "proto/experts.grpc.pb.h"
#include "tests/contract/transport/grpc_harness.h"
#include "tests/contract/transport/transport_contract.h"

namespace moepool {
namespace {

TEST(GrpcTransportTest, AServerThatStopsEndsTheWorkersServe) {
  GrpcHarness harness([](std::span<const uint8_t>, const FrameWriter&) {}, {});
  harness.StopServer();
  EXPECT_FALSE(harness.served().ok());
  EXPECT_TRUE(harness.router().Lost());
}

TEST(GrpcTransportTest, ConnectFailsWhereNobodyListens) {
  const auto client = GrpcExchangeClient::Connect(MakeRpcChannel("127.0.0.1:1"), "session",
                                                  absl::Now() + absl::Milliseconds(300));
  EXPECT_FALSE(client.ok());
}

TEST(GrpcFrameTest, ReadsWhatProtobufWritesAndTheOtherWayRound) {
  for (const size_t size : {1u, 127u, 128u, 20000u, 300000u}) {
    std::vector<uint8_t> frame(size);
    for (size_t i = 0; i < size; ++i) frame[i] = static_cast<uint8_t>(i * 31);
    experts::v1::Frame message;
    message.set_data(frame.data(), frame.size());
    const std::string wire = message.SerializeAsString();
    // In one slice, and in many that cut the prefix and the data.
    for (const size_t piece : {wire.size(), size_t{1}, size_t{3}, size_t{1000}}) {
      if (wire.size() / piece > 5000) continue;
      std::vector<grpc::Slice> slices;
      for (size_t at = 0; at < wire.size(); at += piece) slices.emplace_back(wire.substr(at, piece));
      const auto decoded = DecodeFrameMessage(grpc::ByteBuffer(slices.data(), slices.size()), 1 << 20);
      ASSERT_TRUE(decoded.ok()) << decoded.status();
      EXPECT_TRUE(std::equal(frame.begin(), frame.end(), decoded->bytes.begin(), decoded->bytes.end()));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(decoded->bytes.data()) % 8, 0u);
    }
    const grpc::ByteBuffer encoded = EncodeFrameMessage(frame);
    grpc::Slice flat;
    ASSERT_TRUE(encoded.DumpToSingleSlice(&flat).ok());
    EXPECT_EQ(std::string(flat.begin(), flat.end()), wire);
  }
}

TEST(GrpcFrameTest, RefusesMalformedMessages) {
  for (const std::string& wire :
       {std::string(), std::string("\x0a"), std::string("\x0a\x02x"), std::string("\x0a\x01xy"),
        std::string("\x12\x01x"), std::string("\x0a\x80"),
        std::string("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12),
        std::string("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11),
        std::string("\x0a\x08") + "12345678"}) {
    const grpc::Slice slice(wire);
    EXPECT_EQ(DecodeFrameMessage(grpc::ByteBuffer(&slice, 1), 7).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

INSTANTIATE_TEST_SUITE_P(Grpc, TransportContractTest, testing::Values(GrpcTransportCase()));

}  // namespace
}  // namespace moepool
