// Steps through bytes that may or may not be UTF-8. Both directions need it: encoding keeps invalid bytes as
// they are, detokenizing replaces them.
#pragma once

#include <string>
#include <string_view>

namespace moepool {

enum class Utf8Kind {
  kCharacter,
  kInvalid,     // `bytes` is the maximal subpart that one U+FFFD stands for (Unicode 3.9, table 3-8)
  kIncomplete,  // the text ends within what may yet become a character
};

struct Utf8Step {
  Utf8Kind kind;
  int bytes;                // 1 to 4
  char32_t code_point = 0;  // of a character
};

// What `text` begins with. Not empty.
Utf8Step NextUtf8(std::string_view text);

bool IsUtf8(std::string_view text);

// Bytes of the longest prefix of `text` that is valid UTF-8.
size_t ValidUtf8Prefix(std::string_view text);

void AppendUtf8(char32_t code_point, std::string* out);

}  // namespace moepool
