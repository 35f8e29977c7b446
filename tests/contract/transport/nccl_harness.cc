#include "tests/contract/transport/nccl_harness.h"

#include <utility>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

class NcclHarness final : public TransportHarness {
 public:
  NcclHarness(FrameHandler handler, const TransportOptions& options)
      : router_(std::make_unique<NcclEnd>(&world_)), worker_(std::make_unique<NcclEnd>(&world_)) {
    link_ = std::make_unique<NcclLink>(*router_, *worker_, MakeControlPair(), std::move(handler), options);
    EXPECT_TRUE(link_->connected()) << link_->router_status() << link_->worker_status();
  }
  ~NcclHarness() override {
    KillWorker();
    link_ = nullptr;
    router_ = nullptr;
    worker_ = nullptr;
    for (const std::string& violation : world_.Violations()) ADD_FAILURE() << violation;
    world_.AwaitNothingLeft();
  }
  ExpertTransport& router() override { return link_->transport(); }
  void KillWorker() override { EXPECT_FALSE(link_->StopWorker().ok()); }

 private:
  NcclWorld world_;
  std::unique_ptr<NcclEnd> router_;
  std::unique_ptr<NcclEnd> worker_;
  std::unique_ptr<NcclLink> link_;
};

}  // namespace

NcclEnd::NcclEnd(NcclWorld* world, const NcclQueueOptions& options)
    : process(world->NewProcess()),
      queue(NcclQueue::Create(process->MakeApi(), process->MakeDevice(), options)) {}

NcclLink::NcclLink(const NcclEnd& router, const NcclEnd& worker, ControlPair control, FrameHandler handler,
                   const TransportOptions& options, absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  std::thread connect([&] {
    auto server = NcclServer::Connect(worker.queue, std::move(control.worker), deadline, options);
    worker_status_ = server.status();
    if (server.ok()) server_ = *std::move(server);
  });
  auto transport = ConnectNcclTransport(router.queue, std::move(control.router), deadline, options);
  router_status_ = transport.status();
  if (transport.ok()) transport_ = *std::move(transport);
  connect.join();
  if (server_ != nullptr) {
    thread_ = std::thread([this, handler = std::move(handler)] { served_ = server_->Serve(handler); });
  }
}

NcclLink::~NcclLink() { StopWorker().IgnoreError(); }

absl::Status NcclLink::StopWorker() {
  if (server_ != nullptr) server_->Stop();
  if (thread_.joinable()) thread_.join();
  return served_;
}

std::vector<TransportCase> NcclTransportCases() {
  const auto make = [](size_t inline_frame_bytes) {
    return [inline_frame_bytes](FrameHandler handler,
                                const TransportOptions& options) -> std::unique_ptr<TransportHarness> {
      TransportOptions chosen = options;
      chosen.inline_frame_bytes = inline_frame_bytes;
      return std::make_unique<NcclHarness>(std::move(handler), chosen);
    };
  };
  return {{"Nccl", make(0)}, {"NcclInline", make(TransportOptions().inline_frame_bytes)}};
}

}  // namespace moepool
