// What a SynthSpec amounts to: the header of its file and the tensors behind it. Shared by the writer and the
// source.
#pragma once

#include <string>
#include <vector>

#include "common/model/gguf_writer.h"
#include "common/model/synthetic.h"
#include "common/model/synthetic_weights.h"

namespace moepool {

struct SynthPlan {
  GgufHeader header;
  std::vector<SynthTensor> tensors;  // in the order of header.offsets()
};

// InvalidArgument names the field of `spec` that is out of range, and both values.
absl::StatusOr<SynthPlan> PlanSynthetic(const SynthSpec& spec);

// The vocabulary of every synthetic model (synthetic.h, kSynthMinVocab).
void AddSynthTokenizer(int vocab, GgufHeader* header);

}  // namespace moepool
