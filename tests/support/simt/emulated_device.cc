// See emulated_device.h.
#include "tests/support/simt/emulated_device.h"

#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <limits>
#include <new>
#include <utility>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/kernels/cuda/cuda_kernels.h"

namespace moepool {
namespace {

constexpr std::align_val_t kAlignment{256};
constexpr int kPattern = 0xa5;  // as a float -2.9e-16, as an index far out of any range

std::byte* New(size_t bytes) {
  auto* const memory = static_cast<std::byte*>(::operator new(bytes, kAlignment));
  std::memset(memory, kPattern, bytes);
  return memory;
}

void Delete(std::byte* memory) { ::operator delete(memory, kAlignment); }

class EmulatedGraph final : public DeviceGraph {
 public:
  using Work = std::deque<std::function<void()>>;
  EmulatedGraph(Work work, simt::EmulatedStream* stream)
      : work_(std::make_shared<const Work>(std::move(work))), stream_(*stream) {}
  void Launch() override {
    stream_.Queue([work = work_] {
      for (const std::function<void()>& piece : *work) piece();
    });
  }
  size_t pieces() const override { return work_->size(); }

 private:
  const std::shared_ptr<const Work> work_;
  simt::EmulatedStream& stream_;
};

}  // namespace

EmulatedDevice::EmulatedDevice(const EmulatedDeviceOptions& options)
    : options_(options), stream_(options.eager) {}

EmulatedDevice::~EmulatedDevice() {
  RunAll();
  MutexLock lock(&mutex_);
  MOEPOOL_CHECK(memory_.empty() && host_memory_.empty());  // all is given back
}

const CudaKernels& EmulatedDevice::Kernels() const { return emulated::Kernels(); }

DeviceMemoryInfo EmulatedDevice::Memory() const {
  MutexLock lock(&mutex_);
  return {options_.memory_bytes - used_, options_.memory_bytes};
}

absl::StatusOr<std::byte*> EmulatedDevice::Allocate(size_t bytes) {
  MOEPOOL_CHECK(!Records());
  MutexLock lock(&mutex_);
  if (bytes > options_.memory_bytes - used_) {
    return absl::ResourceExhaustedError(StrCat("emulated device: ", bytes, " bytes asked for, ",
                                               options_.memory_bytes - used_, " of ", options_.memory_bytes,
                                               " are free"));
  }
  used_ += bytes;
  std::byte* const memory = New(bytes);
  memory_[memory] = bytes;
  return memory;
}

void EmulatedDevice::Free(std::byte* memory) {
  if (memory == nullptr) return;
  RunAll();
  MutexLock lock(&mutex_);
  const auto found = memory_.find(memory);
  MOEPOOL_CHECK(found != memory_.end());
  used_ -= found->second;
  memory_.erase(found);
  Delete(memory);
}

absl::StatusOr<std::byte*> EmulatedDevice::AllocateHost(size_t bytes) {
  MOEPOOL_CHECK(!Records());
  MutexLock lock(&mutex_);
  std::byte* const memory = New(bytes);
  host_memory_[memory] = bytes;
  return memory;
}

void EmulatedDevice::FreeHost(std::byte* memory) {
  if (memory == nullptr) return;
  RunAll();
  MutexLock lock(&mutex_);
  MOEPOOL_CHECK(host_memory_.erase(memory) == 1);
  Delete(memory);
}

bool EmulatedDevice::OfHost(const void* memory) const {
  auto* const at = static_cast<std::byte*>(const_cast<void*>(memory));
  MutexLock lock(&mutex_);
  const auto above = host_memory_.upper_bound(at);
  if (above == host_memory_.begin()) return false;
  const auto& [begin, bytes] = *std::prev(above);
  return at < begin + bytes;
}

void EmulatedDevice::Copy(void* to, const void* from, size_t bytes) {
  if (OfHost(to) || OfHost(from)) copied_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  Own().Queue([=] { std::memcpy(to, from, bytes); });
}

void EmulatedDevice::Zero(void* memory, size_t bytes) {
  Own().Queue([=] { std::memset(memory, 0, bytes); });
}

void EmulatedDevice::Synchronize() {
  MOEPOOL_CHECK(!Records());
  synchronizations_.fetch_add(1, std::memory_order_relaxed);
  stream_.Run();
}

absl::Status EmulatedDevice::BeginGraph() {
  if (!options_.records) return absl::UnavailableError("emulated device: it records nothing");
  MOEPOOL_CHECK(recorder_.exchange(std::this_thread::get_id()) == std::thread::id());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DeviceGraph>> EmulatedDevice::EndGraph() {
  MOEPOOL_CHECK(Records());
  recorder_ = std::thread::id();
  EmulatedGraph::Work work = recorded_.Take();
  if (options_.recordings_fail) return absl::UnavailableError("emulated device: the recording failed");
  return std::make_unique<EmulatedGraph>(std::move(work), &stream_);
}

void EmulatedDevice::CopyAside(void* to, const void* from, size_t bytes) {
  MOEPOOL_CHECK(!Records());
  uint64_t upto = 0;
  {
    MutexLock lock(&aside_mutex_);
    aside_.push_back({marks_, to, from, bytes});
    upto = ++aside_queued_;
  }
  if (options_.eager || options_.aside == CopiesAside::kEarly) RunAside(upto);
}

void EmulatedDevice::AsideAfterStream() {
  MOEPOOL_CHECK(!Records());
  uint64_t mark = 0;
  {
    MutexLock lock(&aside_mutex_);
    mark = ++marks_;
  }
  stream_.Queue([this, mark] {
    {
      MutexLock lock(&aside_mutex_);
      marks_reached_ = mark;
    }
    if (options_.aside == CopiesAside::kEarly) RunAside(std::numeric_limits<uint64_t>::max());
  });
}

void EmulatedDevice::StreamAfterAside() {
  MOEPOOL_CHECK(!Records());
  uint64_t upto = 0;
  {
    MutexLock lock(&aside_mutex_);
    upto = aside_queued_;
  }
  stream_.Queue([this, upto] { RunAside(upto); });
}

void EmulatedDevice::RunAside(uint64_t upto) {
  MutexLock lock(&aside_mutex_);
  while (aside_done_ < upto && !aside_.empty() && aside_.front().after <= marks_reached_) {
    const CopyWork& copy = aside_.front();
    std::memcpy(copy.to, copy.from, copy.bytes);
    aside_.pop_front();
    ++aside_done_;
  }
}

void EmulatedDevice::RunAll() {
  MOEPOOL_CHECK(!Records());
  uint64_t upto = 0;
  {
    MutexLock lock(&aside_mutex_);
    upto = aside_queued_;
  }
  stream_.Run();  // what those copies wait for among it
  RunAside(upto);
}

}  // namespace moepool
