// SentencePiece spells a space as U+2581, so that pieces hold no white space.
#pragma once

#include <string>
#include <string_view>

#include "absl/strings/str_replace.h"
#include "common/base/str.h"

namespace moepool {

inline constexpr std::string_view kEscapedSpace = "\u2581";

inline std::string UnescapeSpaces(std::string_view spelling) {
  return absl::StrReplaceAll(ToAbsl(spelling), {{ToAbsl(kEscapedSpace), " "}});
}

}  // namespace moepool
