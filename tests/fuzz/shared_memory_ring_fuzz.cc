// Both ends of a shared-memory ring whose other end is hostile: positions and records are the input's, and
// change between polls. A sender must not write, nor a receiver read, outside the ring.
#include <memory>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/transport/shared_memory_ring.h"
#include "tests/fuzz/fuzz_input.h"

namespace moepool {
namespace {

constexpr uint64_t kCapacity = 4096;
constexpr uint64_t kMaxFrameBytes = 16 << 10;

void Poll(FuzzInput* input, RingControl* control, uint8_t* ring, RingReceiver* receiver) {
  // The peer advances by little, mostly; now and then by anything.
  const uint64_t step = input->Take<uint8_t>();
  control->head = step == 0xFF ? input->Take<uint64_t>() : control->head + step * 16;
  const size_t at = input->Take<uint16_t>() % kCapacity;
  const std::string_view bytes = input->TakeBytes(std::min<size_t>(input->Take<uint8_t>(), kCapacity - at));
  std::memcpy(ring + at, bytes.data(), bytes.size());
  FrameBytes frame;
  for (int i = 0; i < 3; ++i) {
    const auto there = receiver->Poll(&frame);
    if (!there.ok()) {
      MOEPOOL_CHECK(absl::IsDataLoss(there.status()));
      return;
    }
    if (!*there) return;
    MOEPOOL_CHECK(frame.bytes.size() <= kMaxFrameBytes);
  }
}

void Send(FuzzInput* input, RingControl* control, RingSender* sender) {
  const uint64_t step = input->Take<uint8_t>();
  control->tail = step == 0xFF ? input->Take<uint64_t>() : control->tail + step * 16;
  const std::vector<uint8_t> frame(input->Take<uint16_t>() % (2 * kCapacity) + 1, 0x5A);
  int waits = 0;
  const auto idle = [&]() -> absl::Status {
    // Space appears while the sender waits, or the peer gives up.
    control->tail += input->Take<uint8_t>() * 16;
    return ++waits < 4 ? absl::OkStatus() : absl::CancelledError("enough");
  };
  const absl::Status sent = sender->Send(frame, absl::InfiniteFuture(), absl::ZeroDuration(), idle);
  MOEPOOL_CHECK(sent.ok() || absl::IsDataLoss(sent) || absl::IsCancelled(sent));
}

}  // namespace
}  // namespace moepool

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moepool;
  FuzzInput input(data, size);
  RingControl control = {};
  const auto ring = std::make_unique<uint8_t[]>(kCapacity);  // on the heap, between a sanitizer's red zones
  RingReceiver receiver(&control, ring.get(), kCapacity, kMaxFrameBytes);
  RingSender sender(&control, ring.get(), kCapacity);
  const bool sends = input.Take<uint8_t>() % 2 == 1;
  for (int i = 0; i < 64 && !input.empty(); ++i) {
    if (sends) {
      Send(&input, &control, &sender);
    } else {
      Poll(&input, &control, ring.get(), &receiver);
    }
  }
  return 0;
}
