// See aligned_bytes.h.
#include "common/base/aligned_bytes.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "common/base/str.h"

namespace moepool {
namespace {
constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kAlignment = 64;
}  // namespace

void AlignedBytes::Free::operator()(std::byte* p) const { std::free(p); }

absl::StatusOr<AlignedBytes> AlignedBytes::Create(size_t bytes, std::string_view what) {
  const size_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : kAlignment;
  AlignedBytes result;
  if (bytes > std::numeric_limits<size_t>::max() / 2) {
    return absl::ResourceExhaustedError(StrCat(what, ": ", bytes, " bytes asked for"));
  }
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, rounded == 0 ? kAlignment : rounded) != 0) {
    return absl::ResourceExhaustedError(StrCat(what, ": no memory for ", bytes, " bytes"));
  }
  if (alignment == kHugePageBytes) {
    (void)madvise(memory, rounded, MADV_HUGEPAGE);  // advice: its failure costs speed alone
  }
  std::memset(memory, 0, rounded == 0 ? kAlignment : rounded);
  result.data_.reset(static_cast<std::byte*>(memory));
  result.bytes_ = bytes;
  return result;
}

}  // namespace moepool
