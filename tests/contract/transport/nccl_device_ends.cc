#include "tests/contract/transport/nccl_device_ends.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/transport/frame.h"
#include "common/transport/reply_inbox.h"

namespace moepool {
namespace {

constexpr size_t kHead = sizeof(FrameHeader);

// False where the frame has no end, or there is no memory for it.
bool TakeEnd(DeviceCarrier* carrier, std::span<const uint8_t> frame, DeviceBytes* end) {
  if (frame.size() <= kHead) return false;
  absl::StatusOr<DeviceBytes> taken = carrier->TakeDevice(kHead, frame.size() - kHead);
  if (!taken.ok()) return false;
  *end = *std::move(taken);
  std::copy(frame.begin() + kHead, frame.end(), end->data);
  return true;
}

FrameBytes Whole(const FrameBytes& frame) { return CopyFrame({frame.bytes, frame.device}); }

class FromDevice final : public ExpertTransport {
 public:
  explicit FromDevice(std::shared_ptr<ExpertTransport> transport) : transport_(std::move(transport)) {}
  std::string_view Name() const override { return transport_->Name(); }
  absl::Status Send(uint64_t dispatch_id, std::span<const uint8_t> frame, absl::Time deadline) override {
    DeviceSender* const sender = transport_->device_sender();
    DeviceBytes end;
    if (!TakeEnd(sender, frame, &end)) return transport_->Send(dispatch_id, frame, deadline);
    return sender->SendRows(dispatch_id, frame.first(kHead), std::move(end), deadline);
  }
  absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time deadline) override {
    absl::StatusOr<FrameBytes> frame = transport_->Receive(dispatch_id, deadline);
    return frame.ok() && !frame->device.empty() ? Whole(*frame) : std::move(frame);
  }
  void Forget(uint64_t dispatch_id) override { transport_->Forget(dispatch_id); }
  void Close(const absl::Status& cause) override { transport_->Close(cause); }
  bool Lost() const override { return transport_->Lost(); }

 private:
  const std::shared_ptr<ExpertTransport> transport_;
};

}  // namespace

std::shared_ptr<ExpertTransport> SendsFromDevice(std::shared_ptr<ExpertTransport> transport) {
  return std::make_shared<FromDevice>(std::move(transport));
}

DeviceFrameHandler AnswersFromDevice(FrameHandler handler) {
  return [handler = std::move(handler)](const FrameBytes& frame, DeviceWriter* writer) {
    const FrameBytes whole = Whole(frame);
    handler(whole.bytes, [writer](const FramePieces& answer) -> absl::Status {
      const FrameBytes reply = CopyFrame(answer);
      DeviceBytes end;
      if (!TakeEnd(writer, reply.bytes, &end)) return writer->Write(answer);
      return writer->WriteParts(reply.bytes.first(kHead), std::move(end));
    });
  };
}

}  // namespace moepool
