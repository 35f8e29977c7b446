// The flags of a gateway, which moepool-gateway and `moepool serve` share: where to listen, who may call, and
// how much is taken on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/gateway_server.h"

namespace CLI {
class App;
}

namespace moepool {

struct GatewayFlags {
  std::string http_address = "127.0.0.1:8000";
  std::string grpc_address = "127.0.0.1:50051";
  bool insecure = false;
  std::string api_key_file;
  std::vector<std::string> served_model_names;
  bool open_metrics = false;
  std::vector<std::string> cors_origins;
  std::vector<std::string> allowed_hosts;
  int max_requests = 256;
  int max_queue_requests = 0;
  int64_t max_queue_tokens = 0;
  int max_connections = 512;
  int max_streams = 1024;
  uint32_t max_header_bytes = 16 << 10;
  uint64_t max_body_bytes = 8 << 20;
  double header_timeout_s = 10;
  double body_timeout_s = 60;
  double idle_timeout_s = 75;
  double write_timeout_s = 30;
  double request_timeout_s = 600;
  double keepalive_interval_s = 10;
  double slow_request_ms = 30'000;
  double drain_timeout_s = 30;
};

void AddGatewayFlags(CLI::App* app, GatewayFlags* flags);

// Reads the file of keys. InvalidArgument names the flag that is wrong: also where an address is not loopback
// and neither keys nor --insecure are given.
absl::StatusOr<GatewayOptions> ToGatewayOptions(const GatewayFlags& flags);

}  // namespace moepool
