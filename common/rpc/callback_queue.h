// Keeps gRPC's queue for callbacks alive.
#pragma once

namespace moepool {

// gRPC 1.51 makes the queue behind its callback API when the first server or channel uses it and destroys it
// with the last, and a thread of the queue's may then still be inside ("assertion failed: prior > 0"). A
// process that has called this keeps the queue until it ends. Cheap after the first call; thread-safe.
void KeepCallbackQueue();

}  // namespace moepool
