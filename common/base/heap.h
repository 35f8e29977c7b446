#pragma once

namespace moepool {

// Lets the heap keep what is freed, for processes that take and free megabytes in every step: by default each
// such block would be mapped, cleared page by page and unmapped again. At the beginning of main().
void KeepFreedMemory();

}  // namespace moepool
