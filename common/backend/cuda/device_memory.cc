// See device_memory.h.
#include "common/backend/cuda/device_memory.h"

#include <algorithm>

#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {

absl::Status DeviceBudget::Take(Role role, uint64_t bytes) {
  constexpr const char* kNames[] = {"weights", "buffers", "working memory", "copies of experts"};
  MutexLock lock(&mutex_);
  uint64_t all = 0;
  for (const uint64_t used : used_) all += used;
  if (bytes > limit_ - std::min(limit_, all)) {
    return absl::ResourceExhaustedError(StrCat(
        bytes, " bytes of device memory asked for ", kNames[static_cast<size_t>(role)], "; of ", limit_,
        " that may be used, weights hold ", Used(Role::kWeights), ", buffers ", Used(Role::kBuffers),
        ", working memory ", Used(Role::kWorking), " and copies of experts ", Used(Role::kCopies)));
  }
  Used(role) += bytes;
  return absl::OkStatus();
}

void DeviceBudget::TakeAnyway(Role role, uint64_t bytes) {
  MutexLock lock(&mutex_);
  Used(role) += bytes;
}

uint64_t DeviceBudget::used(Role role) {
  MutexLock lock(&mutex_);
  return Used(role);
}

void DeviceBudget::Return(Role role, uint64_t bytes) {
  MutexLock lock(&mutex_);
  Used(role) -= bytes;
}

absl::StatusOr<std::unique_ptr<DeviceBlock>> DeviceBlock::Create(Device* device, DeviceBudget* budget,
                                                                 DeviceBudget::Role role, size_t bytes) {
  MOEPOOL_RETURN_IF_ERROR(budget->Take(role, bytes));
  std::unique_ptr<DeviceBlock> block(new DeviceBlock(device, budget, role, bytes));
  MOEPOOL_ASSIGN_OR_RETURN(block->data_, device->Allocate(std::max<size_t>(bytes, 1)));
  return block;
}

DeviceBlock::~DeviceBlock() {
  device_->Free(data_);
  budget_->Return(role_, bytes_);
}

absl::StatusOr<std::unique_ptr<PinnedBlock>> PinnedBlock::Create(Device* device, DeviceBudget* budget,
                                                                 size_t bytes) {
  if (absl::Status taken = budget->Take(DeviceBudget::Role::kWeights, bytes); !taken.ok()) {
    return absl::ResourceExhaustedError(
        StrCat(bytes, " bytes of page-locked memory asked for, of which ", budget->limit(), " may be used"));
  }
  std::unique_ptr<PinnedBlock> block(new PinnedBlock(device, budget, bytes));
  MOEPOOL_ASSIGN_OR_RETURN(block->data_, device->AllocateHost(std::max<size_t>(bytes, 1)));
  return block;
}

PinnedBlock::~PinnedBlock() {
  device_->FreeHost(data_);
  budget_->Return(DeviceBudget::Role::kWeights, bytes_);
}

}  // namespace moepool
