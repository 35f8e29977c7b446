// See aligned_bytes.h.
#include "common/base/aligned_bytes.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "common/base/str.h"

namespace moepool {
namespace {
constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kAlignment = 64;
}  // namespace

void AlignedBytes::Free::operator()(std::byte* p) const {
  if (mapped_bytes > 0) {
    munmap(p, mapped_bytes);
  } else {
    std::free(p);
  }
}

absl::StatusOr<AlignedBytes> AlignedBytes::Create(size_t bytes, std::string_view what) {
  using Data = decltype(AlignedBytes::data_);
  AlignedBytes result;
  result.bytes_ = bytes;
  if (bytes > std::numeric_limits<size_t>::max() / 2) {
    return absl::ResourceExhaustedError(StrCat(what, ": ", bytes, " bytes asked for"));
  }
  if (bytes < kHugePageBytes) {
    const size_t rounded = (std::max(bytes, kAlignment) + kAlignment - 1) / kAlignment * kAlignment;
    void* memory = std::aligned_alloc(kAlignment, rounded);
    if (memory == nullptr)
      return absl::ResourceExhaustedError(StrCat(what, ": no memory for ", bytes, " bytes"));
    std::memset(memory, 0, rounded);
    result.data_ = Data(static_cast<std::byte*>(memory), Free(0));
    return result;
  }
  // A huge page more than needed; what lies before the first boundary and behind the end goes back.
  const size_t kept = (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  void* reserved =
      mmap(nullptr, kept + kHugePageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved == MAP_FAILED) {
    return absl::ResourceExhaustedError(StrCat(what, ": no memory for ", bytes, " bytes"));
  }
  auto* begin = static_cast<std::byte*>(reserved);
  const size_t before =
      (kHugePageBytes - reinterpret_cast<uintptr_t>(begin) % kHugePageBytes) % kHugePageBytes;
  if (before > 0) munmap(begin, before);
  std::byte* memory = begin + before;
  munmap(memory + kept, kHugePageBytes - before);
  (void)madvise(memory, kept, MADV_HUGEPAGE);  // advice: its failure costs speed alone
  result.data_ = Data(memory, Free(kept));
  return result;
}

}  // namespace moepool
