// Walks the blocks of one group of packed weights (packed.h), for every instruction-set file (anonymous
// namespace, as generic.h).
#pragma once

#include <cstdint>

namespace moepool {
namespace {

// Bytes of one group at one block.
struct BlockBytes {
  const uint8_t* scales;
  const uint8_t* codes;
  const uint8_t* supers;  // of the super-block; of K-quants alone
};

template <typename Format>
class BlockCursor {
 public:
  BlockCursor(const uint8_t* group, int64_t first_sub_block) : at_(group), sub_block_(first_sub_block) {}

  BlockBytes Next() {
    if constexpr (Format::kSupers != 0) {
      if (supers_ == nullptr || sub_block_ == 8) {
        supers_ = at_;
        at_ += Format::kSupers;
        sub_block_ &= 7;
      }
      ++sub_block_;
    }
    const BlockBytes block = {at_, at_ + Format::kScales, supers_};
    at_ += Format::kScales + Format::kCodes;
    return block;
  }

 private:
  const uint8_t* at_;
  const uint8_t* supers_ = nullptr;
  int64_t sub_block_;
};

}  // namespace
}  // namespace moepool
