// Pieces of grammar.h's language, written.
#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "common/base/str.h"
#include "common/constrain/grammar.h"

namespace moepool {

std::string ControlTokenBytes(std::string_view name) { return StrCat("\xFF", name, "\xFE"); }

std::string GrammarLiteral(std::string_view text) {
  std::string literal = "\"";
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      literal += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7F) {
      absl::StrAppendFormat(&literal, "\\x%02X", byte);
    } else {
      literal += c;
    }
  }
  return literal + '"';
}

std::string GrammarClass(const CodePointSet& set) {
  std::string out = "[";
  const auto append = [&out](char32_t c) {
    if (c < 0x80 && (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_')) {
      out += static_cast<char>(c);
    } else {
      const uint32_t code = c;
      if (c < 0x100) {
        absl::StrAppendFormat(&out, "\\x%02X", code);
      } else if (c < 0x10000) {
        absl::StrAppendFormat(&out, "\\u%04X", code);
      } else {
        absl::StrAppendFormat(&out, "\\U%08X", code);
      }
    }
  };
  for (const CodePointRange& range : set.ranges()) {
    append(range.first);
    if (range.last == range.first) continue;
    out += '-';
    append(range.last);
  }
  return out + "]";
}

}  // namespace moepool
