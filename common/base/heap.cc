#include "common/base/heap.h"

#include <malloc.h>

namespace moepool {
namespace {

constexpr int kLargestHeapBlockBytes = 32 << 20;  // glibc's own upper bound
constexpr int kKeptAtTopBytes = 64 << 20;

}  // namespace

void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, kLargestHeapBlockBytes);
  mallopt(M_TRIM_THRESHOLD, kKeptAtTopBytes);
}

}  // namespace moepool
