// From tokenizer.ggml.* to a TokenizerSpec.
#pragma once

#include "absl/status/statusor.h"
#include "common/model/gguf_metadata.h"
#include "common/model/tokenizer_spec.h"

namespace moepool {

// Without tokenizer.ggml.tokens the spec has no tokens. InvalidArgument names the key and both values where a
// type or a length is wrong, or an id lies outside the vocabulary.
absl::StatusOr<TokenizerSpec> ReadTokenizer(const GgufMetadata& metadata, int vocab_size);

}  // namespace moepool
