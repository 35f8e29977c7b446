// Channels to peers: keepalive that a moepool server allows, fast reconnects, connections of their own.
#pragma once

#include <memory>
#include <string>

#include "grpcpp/channel.h"

namespace moepool {

inline constexpr int kMaxRpcMessageBytes = 16 << 20;

struct RpcChannelOptions {
  int max_message_bytes = kMaxRpcMessageBytes;
  int keepalive_ms = 20'000;  // gRPC's clients go no lower than 10,000
  int max_reconnect_ms = 250;
};

// Connects when it is first used, and again whenever the connection is lost. No two channels share a
// connection, so that large transfers on one do not hold up the other.
std::shared_ptr<grpc::Channel> MakeRpcChannel(const std::string& address,
                                              const RpcChannelOptions& options = {});

}  // namespace moepool
