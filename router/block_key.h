// What the keys and values of a full block follow from, as the prefix cache looks blocks up.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/backend/backend.h"

namespace moepool {

// Names the content of a published block and of all blocks before it. Given once, never again.
using PrefixNode = uint64_t;

struct BlockKey {
  PrefixNode parent = 0;                      // the positions before, or a root
  std::array<int32_t, kKvBlockTokens> ids{};  // of the block's own positions
};

// Spreads keys over a table; says nothing about equality.
size_t HashBlockKey(const BlockKey& key);
bool SameBlockKey(const BlockKey& a, const BlockKey& b);

}  // namespace moepool
