// See huge_pages.h.
#include "common/base/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>

namespace moepool {

std::byte* MapHugePages(size_t bytes, int flags) {
  // A huge page more than needed; what lies before the first boundary and behind the end goes back.
  void* reserved = mmap(nullptr, bytes + kHugePageBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (reserved == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(reserved);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % kHugePageBytes;
  if (before > 0) munmap(begin, before);
  std::byte* const memory = begin + before;
  munmap(memory + bytes, kHugePageBytes - before);
  (void)madvise(memory, bytes, MADV_HUGEPAGE);  // advice: its failure costs speed alone
  return memory;
}

}  // namespace moepool
