// A backend that has memory and no operations: for what only allocates.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/backend/backend.h"

namespace moepool {

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(size_t memory_bytes) : free_bytes_(memory_bytes) {}

  std::string_view Name() const override { return "fake"; }
  std::string NumericClass() const override { return "fake"; }
  bool Supports(Op, DType) const override { return false; }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    if (bytes > free_bytes_) {
      return absl::ResourceExhaustedError(absl::StrCat(bytes, " bytes asked, ", free_bytes_, " free"));
    }
    return std::make_unique<CountedBuffer>(&free_bytes_, bytes);
  }
  absl::StatusOr<std::unique_ptr<Matrix>> Load(const MatrixView&, const WeightKey&) override {
    return absl::UnimplementedError("a fake backend loads nothing");
  }
  void KeepLoaded(absl::FunctionRef<bool()>) override {}
  TrunkOps& Trunk() override { std::abort(); }
  ExpertOps& Experts() override { std::abort(); }

  size_t free_bytes() const { return free_bytes_; }

 private:
  class CountedBuffer final : public Buffer {
   public:
    CountedBuffer(size_t* free_bytes, size_t bytes) : free_bytes_(free_bytes), memory_(bytes) {
      *free_bytes_ -= bytes;
    }
    ~CountedBuffer() override { *free_bytes_ += memory_.size(); }
    std::byte* data() override { return memory_.data(); }
    size_t bytes() const override { return memory_.size(); }
    void Write(size_t offset, std::span<const std::byte> bytes) override {
      std::copy(bytes.begin(), bytes.end(), memory_.begin() + static_cast<ptrdiff_t>(offset));
    }

   private:
    size_t* free_bytes_;
    std::vector<std::byte> memory_;
  };

  size_t free_bytes_;
};

}  // namespace moepool
