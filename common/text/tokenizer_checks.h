// What holds of every well-formed vocabulary, whatever its model. A vocabulary comes from a file or over the
// network.
#pragma once

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/model/tokenizer_spec.h"

namespace moepool {

// InvalidArgument names what is malformed and where: lengths that differ, types and ids out of range, a token
// that is not UTF-8 or stands twice. An empty token is let pass: it is never matched and never made.
absl::Status CheckTokenizerSpec(const TokenizerSpec& spec);

// Ids by spelling. The keys live as long as the spec's tokens.
absl::flat_hash_map<std::string_view, int32_t> IdsBySpelling(const TokenizerSpec& spec);

}  // namespace moepool
