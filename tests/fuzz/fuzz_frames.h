// The tiny model whose exchange the frame targets speak.
#pragma once

#include "common/model/synthetic.h"
#include "common/transport/frame.h"

namespace moepool {

inline constexpr uint64_t kFuzzDigest = 0x0807060504030201;

inline SynthSpec FuzzModel() {
  SynthSpec spec;
  spec.family = "qwen3moe";
  spec.experts = 4;
  spec.experts_per_token = 2;
  spec.ffn = 32;
  spec.hidden = 32;
  spec.vocab = kSynthMinVocab;
  return spec;
}

inline FrameLimits FuzzLimits(const ModelConfig& config) {
  return {config.hidden, config.layers, config.experts, kFuzzDigest};
}

}  // namespace moepool
