#include "common/transport/nccl_staging.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

constexpr size_t kSmallestBytes = 64 << 10;

}  // namespace

struct NcclStaging::State {
  State(std::shared_ptr<NcclDevice> device_of, size_t keep)
      : device(std::move(device_of)), keep_bytes(keep) {}
  ~State() {
    for (const NcclBuffer& buffer : idle) device->Free(buffer);
  }

  void Return(const NcclBuffer& buffer) {
    {
      MutexLock lock(&mutex);
      if (buffer.bytes <= keep_bytes - idle_bytes) {
        idle_bytes += buffer.bytes;
        idle.push_back(buffer);
        return;
      }
    }
    device->Free(buffer);
  }

  // False: there were none.
  bool FreeIdle() {
    std::vector<NcclBuffer> buffers;
    {
      MutexLock lock(&mutex);
      buffers.swap(idle);
      idle_bytes = 0;
    }
    for (const NcclBuffer& buffer : buffers) device->Free(buffer);
    return !buffers.empty();
  }

  const std::shared_ptr<NcclDevice> device;
  const size_t keep_bytes;
  Mutex mutex;
  std::vector<NcclBuffer> idle GUARDED_BY(mutex);
  size_t idle_bytes GUARDED_BY(mutex) = 0;
};

NcclStaging::NcclStaging(std::shared_ptr<NcclDevice> device, size_t keep_bytes)
    : state_(std::make_shared<State>(std::move(device), keep_bytes)) {}

absl::StatusOr<std::shared_ptr<const NcclBuffer>> NcclStaging::Take(size_t bytes, bool with_host) {
  const size_t size = std::bit_ceil(std::max(bytes, kSmallestBytes));
  NcclBuffer buffer;
  {
    MutexLock lock(&state_->mutex);
    const auto it =
        std::find_if(state_->idle.rbegin(), state_->idle.rend(), [size, with_host](const NcclBuffer& idle) {
          return idle.bytes == size && (idle.host != nullptr) == with_host;
        });
    if (it != state_->idle.rend()) {
      buffer = *it;
      state_->idle_bytes -= size;
      state_->idle.erase(std::next(it).base());
    }
  }
  if (buffer.device == nullptr) {
    absl::StatusOr<NcclBuffer> made = state_->device->Allocate(size, with_host);
    if (absl::IsResourceExhausted(made.status()) && state_->FreeIdle()) {
      made = state_->device->Allocate(size, with_host);
    }
    MOEPOOL_ASSIGN_OR_RETURN(buffer, std::move(made));
  }
  return std::shared_ptr<const NcclBuffer>(new NcclBuffer(buffer),
                                           [state = state_](const NcclBuffer* returned) {
                                             state->Return(*returned);
                                             delete returned;
                                           });
}

}  // namespace moepool
