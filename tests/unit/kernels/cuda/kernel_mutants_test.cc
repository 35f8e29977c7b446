// Copies of the kernels with one fault each (kernel_mutants.cmake), every one of which the check at the start
// must show, and what else the backend does with a device that is not as it should be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "common/backend/cuda/cuda_backend.h"
#include "common/backend/cuda/self_check.h"
#include "tests/support/simt/device_of_kernels.h"

#define ROWS_MUTANT(name)                          \
  namespace moepool::name {                        \
  void LaunchNorm(const NormArgs&, void*);         \
  void LaunchQuantize(const QuantizeArgs&, void*); \
  void LaunchGather(const GatherArgs&, void*);     \
  void LaunchCombine(const CombineArgs&, void*);   \
  void LaunchAddLeaves(const LeavesArgs&, void*);  \
  }
#define PRODUCTS_MUTANT(name)                               \
  namespace moepool::name {                                 \
  void LaunchQuantizedProducts(const ProductsArgs&, void*); \
  void LaunchPlainProducts(const ProductsArgs&, void*);     \
  }
#define EXPERTS_MUTANT(name)                          \
  namespace moepool::name {                           \
  void LaunchExpertHidden(const ExpertsArgs&, void*); \
  void LaunchExpertLeaves(const ExpertsArgs&, void*); \
  }
#include "kernel_mutants.inc"
#undef ROWS_MUTANT
#undef PRODUCTS_MUTANT
#undef EXPERTS_MUTANT

namespace moepool {
namespace {

using ::testing::HasSubstr;

struct Mutant {
  std::string name;
  CudaKernels kernels;
};
std::vector<Mutant> Mutants() {
  std::vector<Mutant> mutants;
  const auto add = [&](const char* name) -> CudaKernels& {
    return mutants.emplace_back(name, emulated::Kernels()).kernels;
  };
#define ROWS_MUTANT(name)                       \
  {                                             \
    CudaKernels& kernels = add(#name);          \
    kernels.norm = name::LaunchNorm;            \
    kernels.quantize = name::LaunchQuantize;    \
    kernels.gather = name::LaunchGather;        \
    kernels.combine = name::LaunchCombine;      \
    kernels.add_leaves = name::LaunchAddLeaves; \
  }
#define PRODUCTS_MUTANT(name)                                   \
  {                                                             \
    CudaKernels& kernels = add(#name);                          \
    kernels.quantized_products = name::LaunchQuantizedProducts; \
    kernels.plain_products = name::LaunchPlainProducts;         \
  }
#define EXPERTS_MUTANT(name)                          \
  {                                                   \
    CudaKernels& kernels = add(#name);                \
    kernels.expert_hidden = name::LaunchExpertHidden; \
    kernels.expert_leaves = name::LaunchExpertLeaves; \
  }
#include "kernel_mutants.inc"
  return mutants;
}

// What the check at the start says of a device with these kernels, in up to three orders of threads.
absl::Status Check(const CudaKernels& kernels) {
  for (int order = 0; order < 3; ++order) {
    const auto backend = CudaBackend::Create(std::make_unique<DeviceOfKernels>(kernels), {});
    if (!backend.ok()) return backend.status();
    simt::Start<int>([](int) {}, {}, nullptr, 0);  // other orders of threads in the next round
  }
  return absl::OkStatus();
}

TEST(CudaMutantsTest, TheCheckAtTheStartPassesTheKernels) {
  EXPECT_EQ(Check(emulated::Kernels()), absl::OkStatus());
}

TEST(CudaMutantsTest, TheCheckAtTheStartShowsEveryFault) {
  const std::vector<Mutant> mutants = Mutants();
  EXPECT_EQ(mutants.size(), 15u);
  for (const Mutant& mutant : mutants) {
    const absl::Status status = Check(mutant.kernels);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << mutant.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("differs from the CPU's at byte ")) << mutant.name;
  }
}

TEST(CudaBackendTest, MemoryIsShortWithTheBytesOfEachRole) {
  EmulatedDeviceOptions device;
  device.memory_bytes = 1000000;
  CudaOptions options;
  options.memory_limit_bytes = 900000;
  options.self_check = false;
  auto backend =
      CudaBackend::Create(std::make_unique<DeviceOfKernels>(emulated::Kernels(), device), options).value();
  EXPECT_EQ(backend->Gpu().memory_bytes, 900000u);
  const auto buffer = backend->Allocate(500000).value();
  const std::vector<float> values(100 * 320);
  const MatrixView view = {DType::kF32, 100, 320, reinterpret_cast<const std::byte*>(values.data()), 1280, 0};
  const auto matrix = backend->Load(view, {}).value();
  EXPECT_EQ(matrix->bytes(), 112u * 320 * 4);
  const absl::Status status = backend->Allocate(300000).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(std::string(status.message()),
            "300000 bytes of device memory asked for; of 900000 that may be used, weights hold 143360 and "
            "buffers 500000");
  EXPECT_TRUE(backend->Allocate(250000).ok());  // what was refused holds nothing
}

TEST(CudaBackendTest, ALimitAboveTheDevicesMemoryIsRefused) {
  EmulatedDeviceOptions device;
  device.memory_bytes = 1000000;
  CudaOptions options;
  options.memory_limit_bytes = 1000001;
  const absl::Status status =
      CudaBackend::Create(std::make_unique<DeviceOfKernels>(emulated::Kernels(), device), options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()),
            "device memory is limited to 1000001 bytes, emulated device has 1000000");
}

}  // namespace
}  // namespace moepool
