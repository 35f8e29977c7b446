// Router and worker over the stand-in for NCCL, as a harness for suites that compare carriers and for the
// tests of what NCCL alone can do.
#pragma once

#include <memory>
#include <thread>

#include "common/transport/nccl_transport.h"
#include "tests/contract/transport/transport_fixture.h"
#include "tests/support/nccl/control_stand_in.h"
#include "tests/support/nccl/nccl_stand_in.h"

namespace moepool {

// A router or a worker: a process of the world and its queue.
struct NcclEnd {
  explicit NcclEnd(NcclWorld* world, const NcclQueueOptions& options = {});
  std::unique_ptr<NcclWorld::Process> process;
  std::shared_ptr<NcclQueue> queue;
};

// A worker that is connected to a router, or why it is not. The ends outlive it. One whose queue keeps on the
// device sends the ends of frames from there.
class NcclLink {
 public:
  NcclLink(const NcclEnd& router, const NcclEnd& worker, ControlPair control, FrameHandler handler,
           const TransportOptions& options, absl::Duration limit = absl::Seconds(60));
  NcclLink(const NcclEnd& router, const NcclEnd& worker, ControlPair control, DeviceFrameHandler handler,
           const TransportOptions& options, absl::Duration limit = absl::Seconds(60));
  ~NcclLink();
  const absl::Status& router_status() const { return router_status_; }
  const absl::Status& worker_status() const { return worker_status_; }
  ExpertTransport& transport() { return *transport_; }
  NcclServer& server() { return *server_; }
  bool connected() const { return transport_ != nullptr && server_ != nullptr; }
  // The worker ends; what Serve returned.
  absl::Status StopWorker();

 private:
  void Connect(const NcclEnd& router, const NcclEnd& worker, ControlPair control,
               const TransportOptions& options, absl::Duration limit);

  absl::Status router_status_;
  absl::Status worker_status_;
  std::shared_ptr<ExpertTransport> transport_;
  std::shared_ptr<NcclServer> server_;
  std::thread thread_;
  absl::Status served_;
};

// All frames over NCCL.
TransportCase NcclTransportCase();
// With small ones on the control stream, and with the ends of all in device memory.
std::vector<TransportCase> MoreNcclTransportCases();
// Ends of frames are the caller's to put into device memory, and stay there.
TransportCase NcclOnDeviceTransportCase();

}  // namespace moepool
