// Zeroed memory aligned to 64 bytes, advised to huge pages where it is large: weights are read once a step,
// and 4 KiB pages would cost a TLB miss each.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"

namespace moepool {

class AlignedBytes {
 public:
  AlignedBytes() = default;
  // ResourceExhausted names `what` and the bytes.
  static absl::StatusOr<AlignedBytes> Create(size_t bytes, std::string_view what);

  std::byte* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t bytes_ = 0;
};

}  // namespace moepool
