// The control stream of an NCCL transport over ExpertPool.Exchange: the worker's call says in its metadata
// that the carrier is NCCL, and the messages of nccl_control.h take the place of frames.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/transport/nccl_control.h"
#include "grpcpp/channel.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"

namespace moepool {

inline constexpr char kCarrierMetadata[] = "moepool-carrier";
inline constexpr char kNcclCarrier[] = "nccl";

// The router's end. The reactor is returned to gRPC and deletes itself.
struct AcceptedNcclControl {
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* reactor;
  std::unique_ptr<NcclControl> control;
};
AcceptedNcclControl AcceptNcclControl(grpc::CallbackServerContext* context);

// The worker's end. Waits until the router has accepted the call. Unavailable, DeadlineExceeded, or the
// router's own status.
absl::StatusOr<std::unique_ptr<NcclControl>> DialNcclControl(std::shared_ptr<grpc::Channel> channel,
                                                             const std::string& session, absl::Time deadline);

}  // namespace moepool
