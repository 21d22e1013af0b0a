#include "apps/line_editor.h"

#include <histedit.h>
#include <signal.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <iostream>

namespace fulgur {
namespace {

volatile sig_atomic_t interrupted = 0;
struct sigaction before;

}  // namespace

Interrupts::Interrupts() {
  struct sigaction remember {};
  remember.sa_handler = [](int) { interrupted = 1; };  // no SA_RESTART: a read ends with it
  sigaction(SIGINT, &remember, &before);
}
Interrupts::~Interrupts() { sigaction(SIGINT, &before, nullptr); }

bool Interrupts::take() {
  const bool came = interrupted != 0;
  interrupted = 0;
  return came;
}

struct LineEditor::Terminal {
  EditLine* editor;
  History* history;
  std::string prompt, beginning;

  Terminal() : editor(el_init("fulgur", stdin, stdout, stderr)), history(history_init()) {
    HistEvent event;
    ::history(history, &event, H_SETSIZE, 1000);
    ::history(history, &event, H_SETUNIQUE, 1);
    el_set(editor, EL_CLIENTDATA, this);
    el_set(
        editor, EL_PROMPT, +[](EditLine* e) {
          Terminal* terminal = nullptr;
          el_get(e, EL_CLIENTDATA, &terminal);
          return terminal->prompt.data();
        });
    el_set(editor, EL_HIST, ::history, history);
    el_set(editor, EL_EDITOR, "emacs");
    el_source(editor, nullptr);  // the user's own ~/.editrc
  }
  ~Terminal() { el_end(editor), history_end(history); }
};

LineEditor::LineEditor() {
  if (!isatty(STDIN_FILENO)) return;
  // The editor counts characters in this locale; nothing else of the program asks for one.
  if (!std::setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  terminal_ = std::make_unique<Terminal>();
}
LineEditor::~LineEditor() = default;

void LineEditor::begin_with(const std::string& text) {
  if (terminal_) terminal_->beginning = text;
}

std::optional<std::string> LineEditor::read(const std::string& prompt) {
  std::string line;
  if (!terminal_) {
    if (!std::getline(std::cin, line)) return {};
    return line;
  }
  Interrupts::take();  // it came too late for an answer
  terminal_->prompt = prompt;
  if (!terminal_->beginning.empty()) el_push(terminal_->editor, terminal_->beginning.c_str());
  terminal_->beginning.clear();
  int count = 0;
  const char* const typed = el_gets(terminal_->editor, &count);
  if (Interrupts::take()) {
    el_reset(terminal_->editor);
    std::fputs("^C\n", stdout);
    return line;
  }
  if (!typed || count <= 0) return {};
  line.assign(typed, size_t(count));
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  HistEvent event;
  if (!line.empty()) ::history(terminal_->history, &event, H_ENTER, line.c_str());
  return line;
}

}  // namespace fulgur
