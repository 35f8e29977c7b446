// See aligned_bytes.h.
#include "common/base/aligned_bytes.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "common/base/huge_pages.h"
#include "common/base/rounding.h"
#include "common/base/str.h"

namespace moepool {
namespace {
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
    const size_t rounded = RoundUp(std::max(bytes, kAlignment), kAlignment);
    void* memory = std::aligned_alloc(kAlignment, rounded);
    if (memory == nullptr)
      return absl::ResourceExhaustedError(StrCat(what, ": no memory for ", bytes, " bytes"));
    std::memset(memory, 0, rounded);
    result.data_ = Data(static_cast<std::byte*>(memory), Free(0));
    return result;
  }
  const size_t mapped = RoundUp(bytes, kHugePageBytes);
  std::byte* const memory = MapHugePages(mapped);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(StrCat(what, ": no memory for ", bytes, " bytes"));
  }
  result.data_ = Data(memory, Free(mapped));
  return result;
}

}  // namespace moepool
