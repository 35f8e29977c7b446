// A router as a Trunk, over gRPC.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "common/trunk/trunk.h"

namespace grpc {
class Channel;
}

namespace moepool {

struct GrpcTrunkOptions {
  absl::Duration describe_timeout = absl::Seconds(30);
  absl::Duration pool_timeout = absl::Seconds(3);
  uint64_t max_description_bytes = 256u << 20;
};

// Reconnects by itself. Every error of a call, a refusal by the router included, comes as the call's last
// update. A TrunkCall may be destroyed inside its own update callback, and may outlive the GrpcTrunk.
class GrpcTrunk : public Trunk {
 public:
  explicit GrpcTrunk(const std::string& address, const GrpcTrunkOptions& options = {});
  ~GrpcTrunk() override;

  absl::StatusOr<ModelInfo> Describe() override;  // blocks, at most describe_timeout
  absl::StatusOr<PoolInfo> Pool() override;       // blocks, at most pool_timeout
  absl::StatusOr<std::unique_ptr<TrunkCall>> Generate(SequenceRequest request,
                                                      UpdateCallback on_update) override;
  bool lends_threads() const override { return true; }  // gRPC's, which have nothing else to do

 private:
  struct Stub;
  const std::string address_;
  const GrpcTrunkOptions options_;
  std::shared_ptr<Stub> stub_;
};

}  // namespace moepool
