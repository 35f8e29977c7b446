#include "common/rpc/rpc_server.h"

#include <atomic>

#include "common/rpc/readiness_watcher.h"
#include "common/trunk/fake_trunk.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "router/trunk_service.h"

namespace moepool {
namespace {

// grpc.health.v1.Health/Check, written out by hand: HealthCheckRequest.service is field 1, and so is the
// status answered (1 SERVING, 2 NOT_SERVING). -1: an error.
int Check(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  std::string request;
  if (!service.empty()) request = "\x0a" + std::string(1, static_cast<char>(service.size())) + service;
  grpc::Slice slice(request);
  grpc::ByteBuffer out(&slice, 1);
  grpc::ByteBuffer in;
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", out, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&in, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  if (!status.ok()) return -1;
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(in.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& s : slices) bytes.append(reinterpret_cast<const char*>(s.begin()), s.size());
  return bytes.size() == 2 ? bytes[1] : -1;
}

TEST(RpcServerTest, HealthFollowsSetReady) {
  FakeTrunk trunk{ModelInfo()};
  TrunkService service(&trunk);
  const auto server =
      RpcServer::Start({.address = {"127.0.0.1", 0}, .health_services = {kTrunkServiceName}}, {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_NE((*server)->address().port, 0);
  const auto channel = MakeRpcChannel((*server)->address().ToString());
  EXPECT_EQ(Check(channel, ""), 1);
  EXPECT_EQ(Check(channel, kTrunkServiceName), 2);
  (*server)->SetReady(kTrunkServiceName, true);
  EXPECT_EQ(Check(channel, kTrunkServiceName), 1);
  (*server)->SetReady(kTrunkServiceName, false);
  EXPECT_EQ(Check(channel, kTrunkServiceName), 2);
  EXPECT_EQ(Check(channel, "no.such.Service"), -1);
}

// An expert worker's: nothing but health and reflection.
TEST(RpcServerTest, ServerWithoutServices) {
  const auto server = RpcServer::Start({.address = {"127.0.0.1", 0}, .health_services = {"a.Service"}}, {});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = MakeRpcChannel((*server)->address().ToString());
  EXPECT_EQ(Check(channel, ""), 1);
  EXPECT_EQ(Check(channel, "a.Service"), 2);
}

TEST(ReadinessWatcherTest, HealthFollowsReadiness) {
  const auto server = RpcServer::Start({.address = {"127.0.0.1", 0}, .health_services = {"a.Service"}}, {});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = MakeRpcChannel((*server)->address().ToString());
  std::atomic<bool> ready = false;
  {
    ReadinessWatcher watcher(server->get(), "a.Service", [&] { return ready.load(); });
    EXPECT_EQ(Check(channel, "a.Service"), 2);
    ready = true;
    while (Check(channel, "a.Service") != 1) {
    }
    ready = false;
    while (Check(channel, "a.Service") != 2) {
    }
    ready = true;
    while (Check(channel, "a.Service") != 1) {
    }
  }
  EXPECT_EQ(Check(channel, "a.Service"), 2);
}

TEST(RpcServerTest, PortInUseIsAnError) {
  FakeTrunk trunk{ModelInfo()};
  TrunkService first_service(&trunk), second_service(&trunk);
  const auto first = RpcServer::Start({.address = {"127.0.0.1", 0}}, {&first_service});
  ASSERT_TRUE(first.ok());
  const auto second = RpcServer::Start({.address = (*first)->address()}, {&second_service});
  ASSERT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr((*first)->address().ToString()));
}

}  // namespace
}  // namespace moepool
