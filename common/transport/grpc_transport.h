// Frames over the bidirectional stream ExpertPool.Exchange, on a connection of its own so that control never
// stands before a dispatch. The worker dials; the router answers the call with a reactor.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/transport/expert_transport.h"
#include "common/transport/reply_inbox.h"
#include "grpcpp/channel.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"

namespace moepool {

inline constexpr char kExchangeMethod[] = "/moepool.experts.v1.ExpertPool/Exchange";
inline constexpr char kWorkerMetadata[] = "moepool-worker";  // carries the session
inline constexpr char kAcceptedMetadata[] =
    "moepool-accepted";  // of the router's answer; a refused call has metadata too

// The router's end. The reactor is returned to gRPC and deletes itself; the call ends when the transport is
// closed or destroyed.
struct AcceptedExchange {
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* reactor;
  std::shared_ptr<ExpertTransport> transport;
};
AcceptedExchange AcceptGrpcExchange(grpc::CallbackServerContext* context,
                                    const TransportOptions& options = {});

// The worker's end.
class GrpcExchangeClient {
 public:
  virtual ~GrpcExchangeClient() = default;
  // Dials and waits until the router has accepted the call. `channel` must allow messages of
  // options.max_dispatch_frame_bytes. Unavailable, DeadlineExceeded, or the router's own status.
  static absl::StatusOr<std::unique_ptr<GrpcExchangeClient>> Connect(std::shared_ptr<grpc::Channel> channel,
                                                                     const std::string& session,
                                                                     absl::Time deadline,
                                                                     const TransportOptions& options = {});
  // Hands each dispatch to `handler`, in this thread, until the stream ends; returns why it did. Called once.
  virtual absl::Status Serve(const FrameHandler& handler) = 0;
  // Ends Serve, soon. Thread-safe.
  virtual void Stop() = 0;
};

}  // namespace moepool
