// StrAppend over std::string_view, beside base/str.h's StrCat.
#pragma once

#include <string>

#include "common/base/str.h"

namespace moepool::jinja {

template <typename... T>
void StrAppend(std::string* out, const T&... parts) {
  absl::StrAppend(out, moepool::internal::StrCatArgument(parts)...);
}

}  // namespace moepool::jinja
