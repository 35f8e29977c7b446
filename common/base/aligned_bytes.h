// Zeroed memory aligned to 64 bytes. Where it is large it is mapped by itself, on huge pages (huge_pages.h),
// and what is not touched (a KV cache not yet full) takes no memory.
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
    explicit Free(size_t mapped_bytes) : mapped_bytes(mapped_bytes) {}
    void operator()(std::byte* p) const;
    size_t mapped_bytes;  // 0: from the heap
  };
  std::unique_ptr<std::byte[], Free> data_{nullptr, Free(0)};
  size_t bytes_ = 0;
};

}  // namespace moepool
