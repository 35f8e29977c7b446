// The table of launches.
#include "common/kernels/cuda/attention_launches.cuh"
#include "common/kernels/cuda/cuda_kernels.h"
#include "common/kernels/cuda/launches.h"

namespace moepool::SIMT_TARGET {

const CudaKernels& Kernels() {
  static const CudaKernels kernels = {
      .norm = LaunchNorm,
      .quantize = LaunchQuantize,
      .quantized_products = LaunchQuantizedProducts,
      .plain_products = LaunchPlainProducts,
      .gather = LaunchGather,
      .pack = LaunchPack,
      .pick = LaunchPick,
      .combine = LaunchCombine,
      .select = LaunchSelect,
      .select_shared = LaunchSelectShared,
      .plan = LaunchPlan,
      .expert_hidden = LaunchExpertHidden,
      .expert_hidden_apart = LaunchExpertHiddenApart,
      .expert_leaves = LaunchExpertLeaves,
      .add_leaves = LaunchAddLeaves,
      .expert_parts = LaunchExpertParts,
      .attention = {ProjectKv, Attend, MergeSplits},
      .probes = {.read = LaunchReadProbe, .multiply = LaunchMultiplyProbe},
  };
  return kernels;
}

}  // namespace moepool::SIMT_TARGET
