#include "tests/contract/transport/nccl_harness.h"

#include <utility>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/contract/transport/nccl_device_ends.h"

namespace moepool {
namespace {

class NcclHarness final : public TransportHarness {
 public:
  template <typename Handler>
  NcclHarness(Handler handler, const TransportOptions& options, const NcclQueueOptions& queue)
      : router_(std::make_unique<NcclEnd>(&world_, queue)),
        worker_(std::make_unique<NcclEnd>(&world_, queue)) {
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

auto MakeHarness(size_t inline_frame_bytes, bool keeps_on_device) {
  return [=](FrameHandler handler, const TransportOptions& options) -> std::unique_ptr<TransportHarness> {
    TransportOptions chosen = options;
    chosen.inline_frame_bytes = inline_frame_bytes;
    chosen.max_device_reply_bytes = options.max_reply_frame_bytes;
    const NcclQueueOptions queue = {.keeps_on_device = keeps_on_device};
    return std::make_unique<NcclHarness>(std::move(handler), chosen, queue);
  };
}

}  // namespace

NcclEnd::NcclEnd(NcclWorld* world, const NcclQueueOptions& options)
    : process(world->NewProcess()),
      queue(NcclQueue::Create(process->MakeApi(), process->MakeDevice(), options)) {}

void NcclLink::Connect(const NcclEnd& router, const NcclEnd& worker, ControlPair control,
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
}

NcclLink::NcclLink(const NcclEnd& router, const NcclEnd& worker, ControlPair control,
                   DeviceFrameHandler handler, const TransportOptions& options, absl::Duration limit) {
  Connect(router, worker, std::move(control), options, limit);
  if (server_ == nullptr) return;
  thread_ = std::thread([this, handler = std::move(handler)] { served_ = server_->Serve(handler); });
}

NcclLink::NcclLink(const NcclEnd& router, const NcclEnd& worker, ControlPair control, FrameHandler handler,
                   const TransportOptions& options, absl::Duration limit) {
  Connect(router, worker, std::move(control), options, limit);
  if (transport_ != nullptr && router.queue->options().keeps_on_device) {
    transport_ = SendsFromDevice(std::move(transport_));
  }
  if (server_ == nullptr) return;
  const bool on_device = worker.queue->options().keeps_on_device;
  thread_ = std::thread([this, on_device, handler = std::move(handler)] {
    served_ = on_device ? server_->Serve(AnswersFromDevice(handler)) : server_->Serve(handler);
  });
}

NcclLink::~NcclLink() { StopWorker().IgnoreError(); }

absl::Status NcclLink::StopWorker() {
  if (server_ != nullptr) server_->Stop();
  if (thread_.joinable()) thread_.join();
  return served_;
}

TransportCase NcclTransportCase() { return {"Nccl", MakeHarness(0, false)}; }

std::vector<TransportCase> MoreNcclTransportCases() {
  return {{"Inline", MakeHarness(TransportOptions().inline_frame_bytes, false)},
          {"OnDevice", MakeHarness(0, true)}};
}

TransportCase NcclOnDeviceTransportCase() {
  TransportCase made;
  made.name = "NcclOnDevice";
  made.make_on_device = [](DeviceFrameHandler handler) -> std::unique_ptr<TransportHarness> {
    TransportOptions options;
    options.inline_frame_bytes = 0;
    return std::make_unique<NcclHarness>(std::move(handler), options,
                                         NcclQueueOptions{.keeps_on_device = true});
  };
  return made;
}

}  // namespace moepool
