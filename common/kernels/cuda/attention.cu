// The launches of attention; those of attention_attend.cuh, of which there are many, are compiled apart.
#include "common/kernels/cuda/attention_launches.h"
#include "common/kernels/cuda/attention_merge.cuh"
#include "common/kernels/cuda/attention_project.cuh"

namespace moepool::SIMT_TARGET {

void ProjectKv(const ProjectArgs& args, void* stream) {
  if (args.rows == 0) return;
  const int heads = args.shape.heads + args.shape.kv_heads;
  constexpr int heads_a_block = kProjectThreads / kLanes;
  const int shares = args.shape.qk_norm == QkNorm::kRow ? 1 : (heads + heads_a_block - 1) / heads_a_block;
  simt::Start(ProjectKernel,
              {.grid_x = static_cast<uint32_t>(args.rows),
               .grid_y = static_cast<uint32_t>(shares),
               .threads = kProjectThreads},
              stream, args);
}

void MergeSplits(const MergeArgs& args, void* stream) {
  if (args.count == 0) return;
  constexpr int threads = 128;
  simt::Start(MergeKernel,
              {.grid_x = static_cast<uint32_t>(args.count),
               .grid_y = static_cast<uint32_t>(args.heads),
               .grid_z = static_cast<uint32_t>((args.head_dim + threads - 1) / threads),
               .threads = threads},
              stream, args);
}

}  // namespace moepool::SIMT_TARGET
