#include "apps/line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cwchar>
#include <iostream>
#include <utility>

#include "base/error.h"

namespace fulgur {
namespace {

volatile sig_atomic_t interrupted = 0;
int wakers[2] = {-1, -1};  // a pipe: a signal that comes between a question for keys and their reading is not missed
struct sigaction before;

void remember(int) {
  interrupted = 1;
  [[maybe_unused]] const ssize_t written = write(wakers[1], "", 1);  // a full pipe wakes too
}

// One character of the terminal: 1; 0 at the end of the input; -1 where Ctrl-C came.
int next_character(EditLine*, wchar_t* to) {
  std::mbstate_t state{};
  for (;;) {
    pollfd ready[] = {{STDIN_FILENO, POLLIN, 0}, {wakers[0], POLLIN, 0}};
    if (poll(ready, 2, -1) < 0 && errno != EINTR) return -1;
    if (interrupted) return -1;
    if (ready[0].revents == 0) continue;
    char byte;
    const ssize_t count = read(STDIN_FILENO, &byte, 1);
    if (count <= 0) return count < 0 && errno == EINTR ? -1 : 0;
    const size_t used = std::mbrtowc(to, &byte, 1, &state);
    if (used == size_t(-2)) continue;  // a part of a character
    if (used == size_t(-1)) *to = L'\ufffd';
    return 1;
  }
}

}  // namespace

Interrupts::Interrupts() {
  expect(pipe2(wakers, O_CLOEXEC | O_NONBLOCK) == 0, "a pipe can be had");
  struct sigaction action {};
  action.sa_handler = remember;  // no SA_RESTART: a read ends with it
  sigaction(SIGINT, &action, &before);
}
Interrupts::~Interrupts() {
  sigaction(SIGINT, &before, nullptr);
  for (int& end : wakers) close(std::exchange(end, -1));
}

bool Interrupts::take() {
  const bool came = interrupted != 0;
  interrupted = 0;
  char byte;
  while (read(wakers[0], &byte, 1) > 0) {
  }
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
    el_set(editor, EL_GETCFN, &next_character);
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
  // Before the prompt is seen: an end of input typed at it would get lost where the terminal leaves its line mode
  // later.
  el_set(terminal_->editor, EL_PREP_TERM, 1);
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
