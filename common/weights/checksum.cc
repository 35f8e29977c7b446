// See checksum.h. Eight lanes, so that the latency of a step (6 cycles) is hidden: each takes every eighth
// 64-bit word, lane = fold((lane ^ word) * odd constant), fold(x) = x ^ (x >> 32). The product carries a
// change upwards, the fold back down. Every step is a bijection of the lane, so a change of a single word
// always changes the value.
#include "common/weights/checksum.h"

#include <cstring>

namespace moepool {
namespace {

constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
constexpr size_t kBlockBytes = 64;

uint64_t Step(uint64_t lane, uint64_t word) {
  const uint64_t product = (lane ^ word) * kOdd;
  return product ^ (product >> 32);
}

}  // namespace

void Checksum::Update(std::span<const std::byte> piece) {
  uint64_t lanes[kLanes];
  std::memcpy(lanes, lanes_, sizeof lanes);
  const size_t whole = piece.size() / kBlockBytes * kBlockBytes;
  for (size_t i = 0; i < whole; i += kBlockBytes) {
    uint64_t words[kLanes];
    std::memcpy(words, piece.data() + i, sizeof words);
#pragma GCC unroll 8
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = Step(lanes[lane], words[lane]);
  }
  if (whole < piece.size()) {
    uint64_t words[kLanes] = {};
    std::memcpy(words, piece.data() + whole, piece.size() - whole);
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = Step(lanes[lane], words[lane]);
  }
  std::memcpy(lanes_, lanes, sizeof lanes);
  bytes_ += piece.size();
}

uint64_t Checksum::Value() const {
  uint64_t value = bytes_;
  for (const uint64_t lane : lanes_) value = Step(value, lane);
  return value;
}

uint64_t ChecksumOf(std::span<const std::byte> bytes) {
  Checksum checksum;
  checksum.Update(bytes);
  return checksum.Value();
}

}  // namespace moepool
