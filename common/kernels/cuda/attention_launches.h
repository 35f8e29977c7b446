// The launches of the attention kernels in the build that includes this.
#pragma once

#include "common/kernels/cuda/attention_args.h"
#include "common/kernels/cuda/simt.h"

namespace moepool::SIMT_TARGET {

void ProjectKv(const ProjectArgs& args, void* stream);
void Attend(const AttendArgs& args, void* stream);
void MergeSplits(const MergeArgs& args, void* stream);

}  // namespace moepool::SIMT_TARGET
