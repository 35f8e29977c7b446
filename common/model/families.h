// How one family of models differs from another, as far as its files do not say: one row each. The descriptor
// reads files by it, the synthesiser writes them by it, and nothing else asks for a family's name.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "common/model/config.h"

namespace moepool {

struct Family {
  std::string_view name;  // general.architecture
  RopeKind rope = RopeKind::kNeox;
  NormKind norm = NormKind::kRms;  // kLayer: with biases
  QkNorm qk_norm = QkNorm::kNone;
  // Biases that every model of the family has. One that is not named here is used where a file has it.
  bool qkv_bias = false;
  bool attn_output_bias = false;
  bool output_bias = false;
  bool sliding_window = false;                              // of every layer, where the file names one
  bool tied_embeddings = true;                              // may share the embedding with the LM head
  bool dense = false;                                       // may have no experts
  bool experts = true;                                      // may have experts; what follows is for these
  std::string_view expert_ffn_key = "feed_forward_length";  // intermediate size of one expert
  GateKind gate = GateKind::kSoftmax;
  bool renormalize = false;
  float jitter_eps = 0;        // of sparsemixer
  bool shared_expert = false;  // weighted by sigmoid(x . ffn_gate_inp_shexp)
  // What cos and sin are multiplied by where the file has LongRoPE's factors; 0 where the family has none.
  double longrope_mscale = 0;
};

std::span<const Family> Families();
// Null where it is not built in.
const Family* FindFamily(std::string_view name);
// "llama, qwen2, ...", for messages.
std::string FamilyNames();

}  // namespace moepool
