// The spelling of byte-level vocabularies: each byte stands as one printable character, itself where it is
// one, otherwise the next code point from U+0100 on (GPT-2's table; a space is written U+0120).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace moepool {

// The bytes that `spelling` stands for; nothing where a character is not in the alphabet.
std::optional<std::string> BytesFromSpelling(std::string_view spelling);

std::string SpellingFromBytes(std::string_view bytes);

}  // namespace moepool
