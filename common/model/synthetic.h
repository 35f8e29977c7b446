// Models of random weights: any family, shape and type, reproducible to the last bit from a seed, readable by
// whatever reads GGUF. For tests, for sizing a pool, and for benchmarks of models that are too large to
// fetch.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/model_source.h"
#include "common/tensor/dtype.h"

namespace moepool {

struct SynthSpec {
  std::string family = "llama";  // a row of families.h
  std::string name = "synthetic";
  int hidden = 64;
  int layers = 2;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 16;
  int experts = 0;            // a layer; 0: dense, where the family may be
  int experts_per_token = 0;  // 0 where dense
  int ffn = 128;              // of one expert; of the whole FFN where dense
  int vocab = 512;            // at least kSynthMinVocab
  int context = 512;
  double rope_base = 10000.0;
  double rope_linear_factor = 1.0;
  bool rope_freqs = false;   // a rope_freqs.weight tensor, as Llama 3 has (`llama` alone)
  int original_context = 0;  // of LongRoPE, whose two tensors of factors the file then has (`phimoe` alone)
  int sliding_window = 0;    // 0: none
  int shared_ffn = 0;        // of the shared expert; 0 where the family has none
  bool qkv_bias = false;     // where the family does not have it anyway
  bool tied_embeddings = false;
  bool split_experts = false;  // a tensor an expert, as in old Mixtral files; llama.cpp no longer reads these
  // Of every matrix; norms, biases and the gate stay F32. A matrix whose rows are not whole blocks of it
  // takes Q8_0 instead, or F16 where they are not multiples of 32 either.
  DType dtype = DType::kQ8_0;
  // As in llama.cpp's Q4_K_M: `more_dtype` for the LM head, and for the values and down projections of half
  // the layers, rather than dtype.
  std::optional<DType> more_dtype = std::nullopt;
  uint64_t seed = 1;
};

// 256 bytes, three control tokens and eight merges; the rest of the vocabulary are words no text encodes to.
inline constexpr int kSynthMinVocab = 267;

// Streams the file: memory use does not grow with the model. Written beside `path` and renamed when complete.
// InvalidArgument names the field that is out of range.
absl::Status WriteSyntheticGguf(const SynthSpec& spec, const std::string& path);

// The same model without a file: Range() generates the bytes it is asked for. Equal in configuration, tensors
// and digest to the file that WriteSyntheticGguf() makes.
absl::StatusOr<std::unique_ptr<ModelSource>> MakeSyntheticSource(const SynthSpec& spec);

}  // namespace moepool
