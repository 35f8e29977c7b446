// moepool.trunk.v1.Trunk over gRPC, for gateways: a Trunk (the engine) made reachable.
#pragma once

#include "common/trunk/trunk.h"
#include "proto/trunk.grpc.pb.h"

namespace moepool {

inline constexpr char kTrunkServiceName[] = "moepool.trunk.v1.Trunk";

struct TrunkServiceOptions {
  // Logits that wait for a slow client; beyond it the call fails with ResourceExhausted. Ids need no such
  // limit: they are gathered into one message, and max_tokens bounds them.
  uint64_t max_waiting_logits_bytes = 512u << 20;
};

// `trunk` outlives this, and may deliver updates from any thread: it is never held up.
class TrunkService : public trunk::v1::Trunk::CallbackService {
 public:
  explicit TrunkService(Trunk* trunk, const TrunkServiceOptions& options = {})
      : trunk_(trunk), options_(options) {}

  grpc::ServerWriteReactor<trunk::v1::TrunkEvent>* Generate(grpc::CallbackServerContext* context,
                                                            const trunk::v1::TrunkRequest* request) override;
  grpc::ServerWriteReactor<trunk::v1::ScoreEvent>* Score(grpc::CallbackServerContext* context,
                                                         const trunk::v1::ScoreRequest* request) override;
  grpc::ServerWriteReactor<trunk::v1::Chunk>* GetModel(grpc::CallbackServerContext* context,
                                                       const trunk::v1::GetModelRequest* request) override;
  grpc::ServerUnaryReactor* GetPool(grpc::CallbackServerContext* context,
                                    const trunk::v1::GetPoolRequest* request,
                                    trunk::v1::Pool* response) override;

 private:
  Trunk* const trunk_;
  const TrunkServiceOptions options_;
};

}  // namespace moepool
