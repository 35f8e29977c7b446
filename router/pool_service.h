// ExpertPool over gRPC: the control streams of workers and their exchanges, as links and transports of a
// Membership.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/transport/nccl_queue.h"
#include "common/transport/reply_inbox.h"
#include "grpcpp/impl/service_type.h"
#include "router/membership.h"

namespace moepool {

inline constexpr char kExpertPoolService[] = "moepool.experts.v1.ExpertPool";

struct PoolServiceOptions {
  uint64_t router_id = 0;
  uint64_t incarnation = 0;
  absl::Duration heartbeat = absl::Seconds(1);  // as in MembershipOptions
  bool shared_memory = true;                    // offered to workers on this host
  std::string shm_directory;  // for the UNIX socket, shared with workers in other containers; empty: none
  std::shared_ptr<NcclQueue> nccl;  // offered to workers with the same version of NCCL; null: to none
  std::string no_nccl = "the router has no NCCL";  // where it is null: why, for workers that ask
  TransportOptions transport;
};

class PoolService {
 public:
  // `membership` outlives the service. Unavailable where no UNIX socket can be had.
  static absl::StatusOr<std::unique_ptr<PoolService>> Create(Membership* membership,
                                                             const PoolServiceOptions& options);
  // The gRPC server has been shut down before, and Membership::Shutdown before that.
  virtual ~PoolService() = default;
  // Its server must allow messages of transport.max_dispatch_frame_bytes and a little more.
  virtual grpc::Service* service() = 0;
};

}  // namespace moepool
