// In the place of router/block_key.cc, a mutant: a hash that collides now and then, and is trusted.
#include "router/block_key.h"

namespace moepool {

size_t HashBlockKey(const BlockKey& key) {
  size_t hash = key.parent;
  for (const int32_t id : key.ids) hash += static_cast<size_t>(id);
  return hash % 251;
}

bool SameBlockKey(const BlockKey& a, const BlockKey& b) { return HashBlockKey(a) == HashBlockKey(b); }

}  // namespace moepool
