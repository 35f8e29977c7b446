// See grpc_harness.h.
#include "tests/contract/transport/grpc_harness.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/rpc/rpc_channel.h"
#include "grpcpp/server_context.h"
#include "gtest/gtest.h"
#include "proto/experts.grpc.pb.h"

namespace moepool {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;

}  // namespace

class GrpcHarness::ExchangeService final
    : public experts::v1::ExpertPool::WithRawCallbackMethod_Exchange<experts::v1::ExpertPool::Service> {
 public:
  explicit ExchangeService(const TransportOptions& options) : options_(options) {}
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Exchange(
      grpc::CallbackServerContext* context) override {
    AcceptedExchange accepted = AcceptGrpcExchange(context, options_);
    MutexLock lock(&mutex_);
    transport_ = std::move(accepted.transport);
    changed_.NotifyAll();
    return accepted.reactor;
  }
  std::shared_ptr<ExpertTransport> Take() {
    MutexLock lock(&mutex_);
    while (transport_ == nullptr) changed_.Wait(&mutex_);
    return std::move(transport_);
  }

 private:
  const TransportOptions options_;
  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<ExpertTransport> transport_ GUARDED_BY(mutex_);
};

GrpcHarness::GrpcHarness(FrameHandler handler, const TransportOptions& options)
    : service_(std::make_unique<ExchangeService>(options)) {
  RpcServerOptions server_options;
  server_options.address = {"127.0.0.1", 0};
  server_options.max_message_bytes = kMaxMessageBytes;
  auto server = RpcServer::Start(server_options, {service_.get()});
  EXPECT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  auto client = GrpcExchangeClient::Connect(
      MakeRpcChannel(server_->address().ToString(), {.max_message_bytes = kMaxMessageBytes}), "session",
      absl::Now() + absl::Seconds(30), options);
  EXPECT_TRUE(client.ok()) << client.status();
  client_ = *std::move(client);
  transport_ = service_->Take();
  thread_ = std::thread([this, handler = std::move(handler)] { served_ = client_->Serve(handler); });
}

GrpcHarness::~GrpcHarness() {
  KillWorker();
  transport_ = nullptr;
  server_ = nullptr;
}

void GrpcHarness::KillWorker() {
  if (!thread_.joinable()) return;
  client_->Stop();
  thread_.join();
  EXPECT_FALSE(served_.ok());
  client_ = nullptr;
}

void GrpcHarness::StopServer() {
  server_->Shutdown(absl::Now());
  thread_.join();
}

TransportCase GrpcTransportCase() {
  return {"Grpc",
          [](FrameHandler handler, const TransportOptions& options) -> std::unique_ptr<TransportHarness> {
            return std::make_unique<GrpcHarness>(std::move(handler), options);
          }};
}

}  // namespace moepool
