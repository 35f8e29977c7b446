// The table of launches.
#include "common/kernels/cuda/attention_launches.h"
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
      .combine = LaunchCombine,
      .expert_hidden = LaunchExpertHidden,
      .expert_leaves = LaunchExpertLeaves,
      .add_leaves = LaunchAddLeaves,
      .attention = {ProjectKv, Attend, MergeSplits},
  };
  return kernels;
}

}  // namespace moepool::SIMT_TARGET
