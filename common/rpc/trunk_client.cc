#include "common/rpc/trunk_client.h"

#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_status.h"
#include "common/rpc/trunk_convert.h"
#include "common/trunk/update_delivery.h"
#include "proto/trunk.grpc.pb.h"

namespace moepool {

struct GrpcTrunk::Stub {
  std::unique_ptr<trunk::v1::Trunk::Stub> stub;
};

namespace {

static_assert(std::endian::native == std::endian::little, "logits travel in little-endian order");

SequenceUpdate ToUpdate(const trunk::v1::TrunkEvent& event) {
  SequenceUpdate update;
  update.ids.assign(event.ids().begin(), event.ids().end());
  for (const trunk::v1::TokenLogprobs& logprobs : event.logprobs()) {
    update.logprobs.push_back(FromProto(logprobs));
  }
  for (const trunk::v1::TokenLogprobs& logprobs : event.prompt_logprobs()) {
    update.prompt_logprobs.push_back(FromProto(logprobs));
  }
  update.reason = FromProto(event.finish_reason());
  update.cached_tokens = event.cached_tokens();
  update.queue_ms = event.queue_ms();
  update.prefill_ms = event.prefill_ms();
  update.preemptions = event.preemptions();
  update.retries = event.retries();
  update.slowest_worker = event.slowest_worker();
  return update;
}

SequenceUpdate ToUpdate(const trunk::v1::ScoreEvent& event) {
  SequenceUpdate update;
  LogitsRow& row = update.logits.emplace_back();
  row.position = event.position();
  row.logits.resize(event.logits().size() / sizeof(float));
  std::memcpy(row.logits.data(), event.logits().data(), row.logits.size() * sizeof(float));
  return update;
}

// One streaming call; owns itself until OnDone.
template <typename Event>
class Call : public grpc::ClientReadReactor<Event>, public std::enable_shared_from_this<Call<Event>> {
 public:
  Call(std::shared_ptr<const void> stub, UpdateCallback on_update)
      : stub_(std::move(stub)), delivery_(std::move(on_update)) {}

  template <typename Request>
  void Start(trunk::v1::Trunk::Stub* stub, const Request& request, absl::Time deadline) {
    self_ = this->shared_from_this();
    if (deadline != absl::InfiniteFuture()) context_.set_deadline(absl::ToChronoTime(deadline));
    if constexpr (std::is_same_v<Event, trunk::v1::TrunkEvent>) {
      stub->async()->Generate(&context_, &request, this);
    } else {
      stub->async()->Score(&context_, &request, this);
    }
    this->StartRead(&event_);
    this->StartCall();
  }

  void Cancel() { context_.TryCancel(); }
  void Close() { delivery_.Close(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    SequenceUpdate update = ToUpdate(event_);
    if (update.reason != FinishReason::kNone) {
      last_ = std::move(update);  // finished once the status is known
      has_last_ = true;
    } else {
      delivery_.Deliver(std::move(update));
    }
    this->StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    last_.finished = true;
    last_.status = FromGrpc(status);
    if (status.ok() && !has_last_ && std::is_same_v<Event, trunk::v1::TrunkEvent>) {
      last_.status = absl::InternalError("the router ended a sequence without a finish reason");
    }
    if (!last_.status.ok()) last_.reason = FinishReason::kNone;
    delivery_.Deliver(std::move(last_));
    self_.reset();  // may destroy this
  }

 private:
  const std::shared_ptr<const void> stub_;  // the call uses its channel
  grpc::ClientContext context_;
  Event event_;
  SequenceUpdate last_;
  bool has_last_ = false;
  UpdateDelivery delivery_;
  std::shared_ptr<Call> self_;
};

template <typename Event>
class CallHandle : public TrunkCall {
 public:
  explicit CallHandle(std::shared_ptr<Call<Event>> call) : call_(std::move(call)) {}
  ~CallHandle() override {
    call_->Close();
    call_->Cancel();  // no effect on a call that is over
  }
  void Cancel() override { call_->Cancel(); }

 private:
  const std::shared_ptr<Call<Event>> call_;
};

template <typename Event, typename Request>
std::unique_ptr<TrunkCall> StartCall(std::shared_ptr<const void> owner, trunk::v1::Trunk::Stub* stub,
                                     const Request& request, absl::Time deadline, UpdateCallback on_update) {
  auto call = std::make_shared<Call<Event>>(std::move(owner), std::move(on_update));
  call->Start(stub, request, deadline);
  return std::make_unique<CallHandle<Event>>(std::move(call));
}

}  // namespace

GrpcTrunk::GrpcTrunk(const std::string& address, const GrpcTrunkOptions& options)
    : address_(address), options_(options), stub_(std::make_shared<Stub>()) {
  stub_->stub = trunk::v1::Trunk::NewStub(MakeRpcChannel(address));
}

GrpcTrunk::~GrpcTrunk() = default;

absl::StatusOr<ModelInfo> GrpcTrunk::Describe() {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + options_.describe_timeout));
  const auto reader = stub_->stub->GetModel(&context, trunk::v1::GetModelRequest());
  std::string bytes;
  trunk::v1::Chunk chunk;
  while (reader->Read(&chunk)) {
    bytes += chunk.data();
    if (bytes.size() > options_.max_description_bytes) {
      context.TryCancel();
      return absl::ResourceExhaustedError(absl::StrCat("router ", address_,
                                                       ": the model's description has more than ",
                                                       options_.max_description_bytes, " bytes"));
    }
  }
  if (const grpc::Status status = reader->Finish(); !status.ok()) {
    return absl::Status(FromGrpc(status).code(),
                        absl::StrCat("router ", address_, ": ", status.error_message()));
  }
  trunk::v1::ModelDescription description;
  if (!description.ParseFromString(bytes)) {
    return absl::DataLossError(
        absl::StrCat("router ", address_, ": malformed model description of ", bytes.size(), " bytes"));
  }
  return FromProto(std::move(description));
}

absl::StatusOr<PoolInfo> GrpcTrunk::Pool() {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + options_.pool_timeout));
  trunk::v1::Pool pool;
  if (const grpc::Status status = stub_->stub->GetPool(&context, trunk::v1::GetPoolRequest(), &pool);
      !status.ok()) {
    return absl::Status(FromGrpc(status).code(),
                        absl::StrCat("router ", address_, ": ", status.error_message()));
  }
  return FromProto(pool);
}

absl::StatusOr<std::unique_ptr<TrunkCall>> GrpcTrunk::Generate(SequenceRequest request,
                                                               UpdateCallback on_update) {
  trunk::v1::Trunk::Stub* const stub = stub_->stub.get();
  if (request.first_logits >= 0) {
    return StartCall<trunk::v1::ScoreEvent>(stub_, stub, ToScoreProto(request), request.deadline,
                                            std::move(on_update));
  }
  return StartCall<trunk::v1::TrunkEvent>(stub_, stub, ToProto(request), request.deadline,
                                          std::move(on_update));
}

}  // namespace moepool
