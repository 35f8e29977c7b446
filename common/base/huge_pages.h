// Memory that begins on a huge page and is advised to them: weights are read once a step, and 4 KiB pages
// would cost a TLB miss each.
#pragma once

#include <cstddef>

namespace moepool {

inline constexpr size_t kHugePageBytes = size_t{2} << 20;

// `bytes`, a multiple of kHugePageBytes, of zeroed private memory, which takes pages as they are touched.
// Null, with errno, where there is no room. `flags`: of mmap, beside those of private anonymous memory. Given
// back by munmap(p, bytes).
std::byte* MapHugePages(size_t bytes, int flags = 0);

}  // namespace moepool
