// See block_key.h. A file of its own: tests link others in its place.
#include "router/block_key.h"

#include "absl/hash/hash.h"

namespace moepool {

size_t HashBlockKey(const BlockKey& key) { return absl::HashOf(key.parent, key.ids); }

bool SameBlockKey(const BlockKey& a, const BlockKey& b) { return a.parent == b.parent && a.ids == b.ids; }

}  // namespace moepool
