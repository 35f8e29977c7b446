// A checksum that runs at the speed of memory: tells damage, not forgery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moepool {

// Over bytes handed over in pieces; the value does not depend on where they are cut, as long as every piece
// but the last is a multiple of 64 bytes.
class Checksum {
 public:
  // At most one piece, the last, whose size is no multiple of 64.
  void Update(std::span<const std::byte> piece);
  uint64_t Value() const;

 private:
  static constexpr int kLanes = 8;
  uint64_t lanes_[kLanes] = {1, 2, 3, 4, 5, 6, 7, 8};
  uint64_t bytes_ = 0;
};

uint64_t ChecksumOf(std::span<const std::byte> bytes);

}  // namespace moepool
