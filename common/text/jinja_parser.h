#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "common/text/jinja_ast.h"

namespace moepool::jinja {

// InvalidArgument gives line and cause; also for an unknown filter or test, unless it stands behind a
// condition, and for nesting beyond `max_depth`.
absl::StatusOr<Block> ParseTemplate(std::string_view source, int max_depth);

}  // namespace moepool::jinja
