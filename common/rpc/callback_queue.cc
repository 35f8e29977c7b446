// See callback_queue.h.
#include "common/rpc/callback_queue.h"

#include <chrono>
#include <memory>

#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/trunk.grpc.pb.h"

namespace moepool {
namespace {

// A call whose deadline has passed: it goes nowhere, but its channel holds the queue from then on.
struct Keeper {
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateChannel("127.0.0.1:1", grpc::InsecureChannelCredentials());
  std::unique_ptr<trunk::v1::Trunk::Stub> stub = trunk::v1::Trunk::NewStub(channel);
  grpc::ClientContext context;
  trunk::v1::GetPoolRequest request;
  trunk::v1::Pool response;

  Keeper() {
    context.set_deadline(std::chrono::system_clock::now() - std::chrono::seconds(1));
    stub->async()->GetPool(&context, &request, &response, [](const grpc::Status&) {});
  }
};

}  // namespace

void KeepCallbackQueue() {
  static const Keeper* const keeper = new Keeper;  // never destroyed
  static_cast<void>(keeper);
}

}  // namespace moepool
