#include "tools/terminal_text.h"

#include "common/base/utf8.h"

namespace moepool {

std::string TerminalText(std::string_view text) {
  std::string plain;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    const bool control = step.code_point < 0x20 || (step.code_point >= 0x7F && step.code_point < 0xA0);
    if (step.kind != Utf8Kind::kCharacter) {
      AppendUtf8(0xFFFD, &plain);
    } else if (!control || step.code_point == '\n' || step.code_point == '\t') {
      plain.append(text.substr(0, static_cast<size_t>(step.bytes)));
    }
    text.remove_prefix(static_cast<size_t>(step.bytes));
  }
  return plain;
}

}  // namespace moepool
