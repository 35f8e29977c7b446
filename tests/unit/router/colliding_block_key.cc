// In the place of router/block_key.cc: every hash collides. Slow, and as right as any other.
#include "router/block_key.h"

namespace moepool {

size_t HashBlockKey(const BlockKey&) { return 7; }

bool SameBlockKey(const BlockKey& a, const BlockKey& b) { return a.parent == b.parent && a.ids == b.ids; }

}  // namespace moepool
