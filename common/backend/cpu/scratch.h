// Working memory that grows to the largest call so far and is then reused: no allocation once warm.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace moepool {

template <typename T>
class Scratch {
 public:
  // At least `count` elements, aligned to 64 bytes, of any content; the former content is lost where it
  // grows.
  T* Get(int64_t count) {
    if (count > capacity_) {
      data_.reset();
      data_.reset(
          static_cast<T*>(::operator new (static_cast<size_t>(count) * sizeof(T), std::align_val_t{64})));
      capacity_ = count;
    }
    return data_.get();
  }

 private:
  struct Delete {
    void operator()(T* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Delete> data_;
  int64_t capacity_ = 0;
};

}  // namespace moepool
