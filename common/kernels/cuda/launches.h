// The launches by name, each defined in its .cu file and gathered by cuda_kernels.cu.
#pragma once

#include "common/kernels/cuda/cuda_kernels.h"
#include "common/kernels/cuda/simt.h"

namespace moepool::SIMT_TARGET {

void LaunchNorm(const NormArgs& args, void* stream);
void LaunchQuantize(const QuantizeArgs& args, void* stream);
void LaunchQuantizedProducts(const ProductsArgs& args, void* stream);
void LaunchPlainProducts(const ProductsArgs& args, void* stream);
void LaunchGather(const GatherArgs& args, void* stream);
void LaunchPack(const PackArgs& args, void* stream);
void LaunchPick(const PickArgs& args, void* stream);
void LaunchCombine(const CombineArgs& args, void* stream);
void LaunchSelect(const GateArgs& args, void* stream);
void LaunchSelectShared(const SharedGateArgs& args, void* stream);
void LaunchPlan(const PlanArgs& args, void* stream);
void LaunchExpertHidden(const ExpertsArgs& args, void* stream);
void LaunchExpertHiddenApart(const ExpertsArgs& args, void* stream);
void LaunchExpertLeaves(const ExpertsArgs& args, void* stream);
void LaunchAddLeaves(const LeavesArgs& args, void* stream);
void LaunchExpertParts(const PartsArgs& args, void* stream);
void LaunchReadProbe(const ReadProbeArgs& args, void* stream);
void LaunchMultiplyProbe(const MultiplyProbeArgs& args, void* stream);

}  // namespace moepool::SIMT_TARGET
