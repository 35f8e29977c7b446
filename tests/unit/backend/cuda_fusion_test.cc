// Kernels launched one by one give what the fused ones do: shown by the check at the start, which compares
// both with the CPU's.
#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "common/backend/cuda/cuda_backend.h"
#include "tests/support/simt/device_of_kernels.h"

namespace moepool {
namespace {

absl::Status Check(const CudaKernels& kernels, bool fused) {
  auto device = std::make_unique<DeviceOfKernels>(kernels);
  return CudaBackend::Create(std::move(device), {.fused = fused, .self_check = true}).status();
}

TEST(CudaFusionTest, KernelsApartGiveTheSame) {
  CudaKernels apart = emulated::Kernels();
  apart.expert_hidden = nullptr;  // who calls one ends the test
  apart.expert_parts = nullptr;
  apart.norm = [](const NormArgs& args, void* stream) {
    EXPECT_EQ(args.y.q, nullptr);
    emulated::Kernels().norm(args, stream);
  };
  apart.quantized_products = [](const ProductsArgs& args, void* stream) {
    EXPECT_EQ(args.products, 1);
    emulated::Kernels().quantized_products(args, stream);
  };
  EXPECT_EQ(Check(apart, false), absl::OkStatus());
}

TEST(CudaFusionTest, FusedKernelsAreTheDefault) {
  EXPECT_TRUE(CudaOptions().fused);
  CudaKernels fused = emulated::Kernels();
  fused.expert_hidden_apart = nullptr;
  EXPECT_EQ(Check(fused, true), absl::OkStatus());
}

// What each of the four launches has is needed.
TEST(CudaFusionTest, TheCheckSeesKernelsApart) {
  CudaKernels one_too_few = emulated::Kernels();
  one_too_few.expert_hidden_apart = [](const ExpertsArgs& args, void* stream) {
    ExpertsArgs less = args;
    less.tile_count -= 1;
    emulated::Kernels().expert_hidden_apart(less, stream);
  };
  EXPECT_EQ(Check(one_too_few, false).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace moepool
