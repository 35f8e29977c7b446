#include "tools/line_editor.h"

#include <histedit.h>

#include <clocale>
#include <cstdio>
#include <cstring>

#include "common/base/status_macros.h"

namespace moepool {
namespace {

constexpr int kHistoryLines = 1000;

// What libedit's callbacks see: it hands a pointer of ours on.
struct Editing {
  std::string prompt;
  bool interrupted = false;
};

Editing* EditingOf(EditLine* editor) {
  void* data = nullptr;
  el_get(editor, EL_CLIENTDATA, &data);
  return static_cast<Editing*>(data);
}

char* Prompt(EditLine* editor) { return EditingOf(editor)->prompt.data(); }

// Ctrl-C: the line ends, and does not count.
unsigned char Interrupt(EditLine* editor, int) {
  EditingOf(editor)->interrupted = true;
  return CC_NEWLINE;
}

}  // namespace

struct LineEditor::State {
  Editing editing;
  History* history = nullptr;
  EditLine* editor = nullptr;
};

LineEditor::LineEditor() : state_(new State) {
  // libedit takes the bytes for characters of the locale. Where that is none of UTF-8 (a container without
  // settings), C.UTF-8 stands in.
  const char* const locale = std::setlocale(LC_CTYPE, "");
  if (locale == nullptr || std::strcmp(locale, "C") == 0 || std::strcmp(locale, "POSIX") == 0) {
    std::setlocale(LC_CTYPE, "C.UTF-8");
  }
  state_->history = history_init();
  state_->editor = el_init("moepool", stdin, stdout, stderr);
  MOEPOOL_CHECK(state_->history != nullptr && state_->editor != nullptr);
  HistEvent event;
  history(state_->history, &event, H_SETSIZE, kHistoryLines);
  EditLine* const editor = state_->editor;
  el_set(editor, EL_CLIENTDATA, &state_->editing);
  el_set(editor, EL_PROMPT, Prompt);
  el_set(editor, EL_EDITOR, "emacs");
  el_set(editor, EL_SIGNAL, 1);  // restores the terminal where SIGTERM ends the process, and follows its size
  el_set(editor, EL_HIST, history, state_->history);
  el_set(editor, EL_ADDFN, "interrupt", "drop the line", Interrupt);
  el_set(editor, EL_BIND, "^C", "interrupt", nullptr);
  el_set(editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  // Ctrl-C is a key while a line is edited, and a signal otherwise.
  el_set(editor, EL_SETTY, "-d", "-isig", nullptr);
}

LineEditor::~LineEditor() {
  el_end(state_->editor);
  history_end(state_->history);
}

LineEditor::Input LineEditor::Read(const std::string& prompt) {
  state_->editing = {prompt, false};
  int count = 0;
  // Raw before the prompt: a key pressed on seeing it would otherwise meet the terminal's own Ctrl-C and
  // Ctrl-D.
  el_set(state_->editor, EL_PREP_TERM, 1);
  const char* const line = el_gets(state_->editor, &count);
  if (state_->editing.interrupted) return {Kind::kInterrupted, ""};
  if (line == nullptr || count <= 0) return {Kind::kEnd, ""};
  std::string text(line, static_cast<size_t>(count));
  if (text.ends_with('\n')) text.pop_back();
  return {Kind::kLine, text};
}

void LineEditor::Remember(const std::string& line) {
  if (line.empty()) return;
  HistEvent event;
  history(state_->history, &event, H_ENTER, line.c_str());
}

}  // namespace moepool
