// Unicode's composed form, which Qwen's vocabularies expect.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace moepool {

// `text` is valid UTF-8. Composes by Unicode 9, as the reference's tokenizer does: marks that came later stay
// where they are.
absl::StatusOr<std::string> ToNfc(std::string_view text);

}  // namespace moepool
