// Copies of the kernels with one fault each (kernel_mutants.cmake), every one of which the check at the start
// must show.
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
  void LaunchPack(const PackArgs&, void*);         \
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
  void LaunchExpertParts(const PartsArgs&, void*);    \
  }
#define PICK_MUTANT(name)                  \
  namespace moepool::name {                \
  void LaunchPick(const PickArgs&, void*); \
  }
#define GATE_MUTANT(name)                                \
  namespace moepool::name {                              \
  void LaunchSelect(const GateArgs&, void*);             \
  void LaunchSelectShared(const SharedGateArgs&, void*); \
  }
#define PLAN_MUTANT(name)                  \
  namespace moepool::name {                \
  void LaunchPlan(const PlanArgs&, void*); \
  }
#include "kernel_mutants.inc"
#undef ROWS_MUTANT
#undef PICK_MUTANT
#undef PRODUCTS_MUTANT
#undef EXPERTS_MUTANT
#undef GATE_MUTANT
#undef PLAN_MUTANT

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
    mutants.push_back({name, emulated::Kernels()});
    return mutants.back().kernels;
  };
#define ROWS_MUTANT(name)                       \
  {                                             \
    CudaKernels& kernels = add(#name);          \
    kernels.norm = name::LaunchNorm;            \
    kernels.quantize = name::LaunchQuantize;    \
    kernels.gather = name::LaunchGather;        \
    kernels.pack = name::LaunchPack;            \
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
    kernels.expert_parts = name::LaunchExpertParts;   \
  }
#define PICK_MUTANT(name) add(#name).pick = name::LaunchPick;
#define GATE_MUTANT(name)                             \
  {                                                   \
    CudaKernels& kernels = add(#name);                \
    kernels.select = name::LaunchSelect;              \
    kernels.select_shared = name::LaunchSelectShared; \
  }
#define PLAN_MUTANT(name) add(#name).plan = name::LaunchPlan;
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
  EXPECT_EQ(mutants.size(), 35u);
  for (const Mutant& mutant : mutants) {
    const absl::Status status = Check(mutant.kernels);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << mutant.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("differs from the CPU's at byte ")) << mutant.name;
  }
}

}  // namespace
}  // namespace moepool
