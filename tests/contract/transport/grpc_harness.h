// A gRPC server and client of one exchange, as a harness for suites that compare carriers.
#pragma once

#include <memory>
#include <thread>

#include "common/rpc/rpc_server.h"
#include "common/transport/grpc_transport.h"
#include "tests/contract/transport/transport_fixture.h"

namespace moepool {

class GrpcHarness final : public TransportHarness {
 public:
  GrpcHarness(FrameHandler handler, const TransportOptions& options);
  ~GrpcHarness() override;
  ExpertTransport& router() override { return *transport_; }
  void KillWorker() override;
  void StopServer();
  const absl::Status& served() const { return served_; }

 private:
  class ExchangeService;
  std::unique_ptr<ExchangeService> service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<GrpcExchangeClient> client_;
  std::shared_ptr<ExpertTransport> transport_;
  std::thread thread_;
  absl::Status served_;
};

TransportCase GrpcTransportCase();

}  // namespace moepool
