// Tiles of a constant number of tokens, for AVX-512 files alone (anonymous namespace, as generic.h).
#pragma once

#include <cstdint>

namespace moepool {
namespace {

template <int N>
struct Count {
  static constexpr int kValue = N;
};

// Calls body with Count<n>, n in [First, Last].
template <int First, int Last, typename Body>
inline void WithCount(int64_t n, const Body& body) {
  if constexpr (First < Last) {
    if (n < Last) return WithCount<First, Last - 1>(n, body);
  }
  body(Count<Last>());
}

// Calls body(first token, Count<tokens>) for as few tiles of at most N tokens as cover `tokens`, nearly
// equal; none is smaller than `Smallest`, which the caller knows (fewer of them are compiled).
template <int N, int Smallest = 1, typename Body>
inline void ForTiles(int64_t tokens, const Body& body) {
  const int64_t tiles = (tokens + N - 1) / N;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t begin = tokens * i / tiles;
    WithCount<Smallest, N>(tokens * (i + 1) / tiles - begin, [&](auto count) { body(begin, count); });
  }
}

}  // namespace
}  // namespace moepool
