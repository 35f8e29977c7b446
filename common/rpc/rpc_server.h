// A gRPC server as every moepool process runs it: health, reflection, keepalive, limits, and the real port.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/config.h"
#include "common/rpc/rpc_channel.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/server.h"

namespace moepool {

struct RpcServerOptions {
  HostPort address;
  int max_message_bytes = kMaxRpcMessageBytes;
  int max_streams = 0;                                 // calls at once on one connection; 0: no limit
  absl::Duration max_idle = absl::InfiniteDuration();  // of a connection without calls
  std::vector<std::string> health_services = {};       // full names; NOT_SERVING until SetReady
};

// Thread-safe.
class RpcServer {
 public:
  // `services` outlive the server. Unavailable names the address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const RpcServerOptions& options,
                                                          const std::vector<grpc::Service*>& services);
  ~RpcServer();
  // What grpc.health.v1 answers for `service`. The empty name, for alive, is always SERVING.
  void SetReady(const std::string& service, bool ready);
  // Takes no more calls, lets those that run finish until `deadline`, then cancels them. Returns when all are
  // over.
  void Shutdown(absl::Time deadline);
  const HostPort& address() const { return address_; }  // the real port

 private:
  RpcServer() = default;
  HostPort address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace moepool
