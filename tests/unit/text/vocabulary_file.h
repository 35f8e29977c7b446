// The tokenizer of a GGUF file that holds nothing else.
#pragma once

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "common/base/status_macros.h"
#include "common/model/gguf_reader.h"
#include "common/model/tokenizer_metadata.h"

namespace moepool {

inline absl::StatusOr<TokenizerSpec> ReadVocabulary(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream.good()) return absl::NotFoundError(path + " cannot be read");
  const std::string bytes(std::istreambuf_iterator<char>(stream), {});
  MOEPOOL_ASSIGN_OR_RETURN(const GgufFile file,
                           ReadGguf(bytes.size(), [&](uint64_t offset, uint64_t count, char* out) {
                             std::memcpy(out, bytes.data() + offset, count);
                             return absl::OkStatus();
                           }));
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<std::string> tokens,
                           file.metadata.Strings("tokenizer.ggml.tokens"));
  return ReadTokenizer(file.metadata, static_cast<int>(tokens.size()));
}

}  // namespace moepool
