// See cuda_context.h.
#include "common/backend/cuda/cuda_context.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/base/rounding.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kSmallestChunk = size_t{1} << 20;

std::byte* OrDie(absl::StatusOr<std::byte*> memory) {
  if (memory.ok()) return *memory;
  std::fprintf(stderr, "working memory of the device: %s\n", std::string(memory.status().message()).c_str());
  std::abort();
}

}  // namespace

DeviceScratch::DeviceScratch(CudaContext* context)
    : context_(context), device_(&context->device()), budget_(context->budget()) {}

void DeviceScratch::Release() {
  if (data_ != nullptr) context_->Moved();
  device_->Free(data_);
  if (budget_ != nullptr) budget_->Return(DeviceBudget::Role::kWorking, bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

absl::Status DeviceScratch::Reserve(size_t bytes) {
  if (bytes <= bytes_) return absl::OkStatus();
  Release();
  if (budget_ != nullptr) MOEPOOL_RETURN_IF_ERROR(budget_->Take(DeviceBudget::Role::kWorking, bytes));
  bytes_ = bytes;
  MOEPOOL_ASSIGN_OR_RETURN(data_, device_->Allocate(bytes));
  return absl::OkStatus();
}

std::byte* DeviceScratch::Get(size_t bytes) {
  if (bytes <= bytes_ && data_ != nullptr) return data_;
  if (context_->Records()) {  // and nothing is done with what this returns
    context_->Spoil();
    return data_;
  }
  Release();
  data_ = OrDie(device_->Allocate(bytes));
  if (budget_ != nullptr) budget_->TakeAnyway(DeviceBudget::Role::kWorking, bytes);
  bytes_ = bytes;
  return data_;
}

std::byte* HostScratch::Get(size_t bytes) {
  if (bytes <= bytes_) return data_;
  device_->FreeHost(data_);
  data_ = nullptr;
  data_ = OrDie(device_->AllocateHost(bytes));
  bytes_ = bytes;
  return data_;
}

CudaContext::CudaContext(Device* device, DeviceBudget* budget, bool fused)
    : device_(*device),
      budget_(budget),
      fused_(fused),
      kernels_(device->Kernels()),
      fault_places_(reinterpret_cast<uint8_t*>(OrDie(device->AllocateHost(kFaultPlaces * kFaultRows)))) {}

CudaContext::~CudaContext() {
  device_.Synchronize();
  device_.FreeHost(reinterpret_cast<std::byte*>(fault_places_));
  for (const Chunk& chunk : chunks_) device_.FreeHost(chunk.data);
}

std::byte* CudaContext::Stage(size_t bytes) {
  MOEPOOL_CHECK(!Records());  // the next Settle() gives it to others, and a replay would read theirs
  const size_t size = RoundUp<size_t>(bytes, kAlignment);
  if (chunks_.empty() || chunks_.back().bytes - used_ < size) {
    const size_t chunk = std::max(size, chunks_.empty() ? kSmallestChunk : 2 * chunks_.back().bytes);
    chunks_.push_back({OrDie(device_.AllocateHost(chunk)), chunk});
    used_ = 0;
  }
  std::byte* const staged = chunks_.back().data + used_;
  used_ += size;
  return staged;
}

DeviceFaults CudaContext::Report(RowFaults faults) {
  if (faults.empty()) return nullptr;
  for (const Reported& reported : reported_) {
    if (reported.to.data() == faults.data() && reported.to.size() == faults.size()) return reported.from;
  }
  if (Records()) {  // a replay would not bring over what is found
    Spoil();
    return fault_places_;
  }
  uint8_t* from = nullptr;
  if (faults.size() <= kFaultRows && fault_places_used_ < kFaultPlaces) {
    from = fault_places_ + kFaultRows * fault_places_used_++;
  } else {
    from = reinterpret_cast<uint8_t*>(Stage(faults.size()));
  }
  std::memcpy(from, faults.data(), faults.size());
  reported_.push_back({faults, from});
  return from;
}

void CudaContext::Settle() {
  device_.Synchronize();
  for (const Reported& reported : reported_) {
    for (size_t i = 0; i < reported.to.size(); ++i) {
      if (reported.from[i] != 0) reported.to[i] = 1;
    }
  }
  reported_.clear();
  fault_places_used_ = 0;
  ++settled_;
  // The last chunk is the largest, and serves alone from here on.
  for (; chunks_.size() > 1; chunks_.erase(chunks_.begin())) device_.FreeHost(chunks_.front().data);
  used_ = 0;
}

void CudaContext::BeginRecording() {
  MOEPOOL_CHECK(recorder_ == std::thread::id());
  recorder_ = std::this_thread::get_id();
  spoilt_ = false;
  moves_before_ = moves();
  settled_before_ = settled_;
}

bool CudaContext::EndRecording() {
  MOEPOOL_CHECK(Records());
  recorder_ = std::thread::id();
  return !spoilt_ && moves() == moves_before_ && settled_ == settled_before_;
}

void CudaContext::Fetch(std::span<Fetched> wanted, HostScratch* scratch) {
  size_t bytes = 0;
  for (const Fetched& fetched : wanted) bytes += RoundUp<size_t>(fetched.bytes, kAlignment);
  std::byte* host = scratch->Get(bytes);
  for (Fetched& fetched : wanted) {
    fetched.host = host;
    if (fetched.bytes > 0) device_.Copy(host, fetched.device, fetched.bytes);
    host += RoundUp<size_t>(fetched.bytes, kAlignment);
  }
  Settle();
}

size_t Upload::Add(const void* bytes, size_t count, size_t capacity) {
  const size_t place = bytes_;
  if (count > 0) pieces_.push_back({bytes, count, place});
  bytes_ += RoundUp<size_t>(capacity, kAlignment);
  return place;
}

size_t Upload::AddRows(std::span<const float* const> rows, size_t cols) {
  const size_t place = bytes_;
  const size_t row_bytes = cols * sizeof(float);
  for (size_t i = 0; i < rows.size(); ++i) pieces_.push_back({rows[i], row_bytes, place + i * row_bytes});
  bytes_ += RoundUp<size_t>(rows.size() * row_bytes, kAlignment);
  return place;
}

void Upload::Send(CudaContext* context, DeviceScratch* to) {
  base_ = to->Get(bytes_);
  if (bytes_ > 0) {
    std::byte* const staged = context->Stage(bytes_);
    for (const Piece& piece : pieces_) std::memcpy(staged + piece.place, piece.bytes, piece.count);
    context->device().Copy(base_, staged, bytes_);
  }
  pieces_.clear();
  bytes_ = 0;
}

}  // namespace moepool
