// Lines that a person types: with editing and history on a terminal, as they come from a pipe.
#pragma once
#include <memory>
#include <optional>
#include <string>

namespace fulgur {

class LineEditor {
 public:
  LineEditor();
  ~LineEditor();

  // Without the line break. None at the end of the input; an empty line where Ctrl-C gave one up.
  std::optional<std::string> read(const std::string& prompt);
  // What the next line begins with, to be edited. Nothing in a pipe.
  void begin_with(const std::string& text);
  bool is_terminal() const { return terminal_ != nullptr; }

 private:
  struct Terminal;
  std::unique_ptr<Terminal> terminal_;  // null: the input is a pipe
};

// While one lives, Ctrl-C is remembered instead of ending the program.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  static bool take();  // whether it came since it was last asked
};

}  // namespace fulgur
