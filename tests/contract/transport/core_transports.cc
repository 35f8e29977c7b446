#include <thread>
#include <utility>

#include "common/base/mutex.h"
#include "common/transport/in_process.h"
#include "common/transport/shared_memory.h"
#include "gtest/gtest.h"
#include "tests/contract/transport/nccl_harness.h"
#include "tests/contract/transport/transport_fixture.h"

namespace moepool {
namespace {

class InProcessHarness final : public TransportHarness {
 public:
  InProcessHarness(FrameHandler handler, const TransportOptions& options)
      : transport_(MakeInProcessTransport(std::move(handler), options)) {}
  ExpertTransport& router() override { return *transport_; }
  void KillWorker() override { transport_->Close(absl::UnavailableError("worker ended")); }

 private:
  std::unique_ptr<ExpertTransport> transport_;
};

class SharedMemoryHarness final : public TransportHarness {
 public:
  SharedMemoryHarness(FrameHandler handler, const TransportOptions& options) {
    auto socket = SharedMemorySocket::Listen(
        options.ring_bytes, {[](const std::string& session) { return session == "secret"; },
                             [this](const std::string&, SharedMemoryConnection connection) {
                               MutexLock lock(&mutex_);
                               accepted_ = std::make_unique<SharedMemoryConnection>(std::move(connection));
                               changed_.NotifyAll();
                             }});
    EXPECT_TRUE(socket.ok()) << socket.status();
    auto dialled = DialSharedMemory((*socket)->name(), "secret", absl::Seconds(5));
    EXPECT_TRUE(dialled.ok()) << dialled.status();
    {
      MutexLock lock(&mutex_);
      while (accepted_ == nullptr) changed_.Wait(&mutex_);
      transport_ = MakeSharedMemoryTransport(std::move(*accepted_), options);
    }
    server_ = std::make_unique<SharedMemoryServer>(*std::move(dialled), options);
    thread_ = std::thread([this, handler = std::move(handler)] { served_ = server_->Serve(handler); });
  }
  ~SharedMemoryHarness() override { KillWorker(); }
  ExpertTransport& router() override { return *transport_; }
  void KillWorker() override {
    if (!thread_.joinable()) return;
    server_->Stop();
    thread_.join();
    EXPECT_FALSE(served_.ok());
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::unique_ptr<SharedMemoryConnection> accepted_ GUARDED_BY(mutex_);
  std::unique_ptr<ExpertTransport> transport_;
  std::unique_ptr<SharedMemoryServer> server_;
  std::thread thread_;
  absl::Status served_;
};

}  // namespace

std::vector<TransportCase> CoreTransportCases() {
  std::vector<TransportCase> cases = {
      {"InProcess",
       [](FrameHandler handler, const TransportOptions& options) -> std::unique_ptr<TransportHarness> {
         return std::make_unique<InProcessHarness>(std::move(handler), options);
       },
       /*asynchronous=*/false},
      {"SharedMemory",
       [](FrameHandler handler, const TransportOptions& options) -> std::unique_ptr<TransportHarness> {
         return std::make_unique<SharedMemoryHarness>(std::move(handler), options);
       }}};
  cases.push_back(NcclTransportCase());
  return cases;
}

}  // namespace moepool
