// A template's text to tokens, with Jinja's white-space rules as chat templates are read: the line break after a block
// is dropped (trim_blocks), and so is the space before one that begins its line (lstrip_blocks).
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_value.h"

namespace fulgur::jinja {

// A template that is none, or says what is not supported.
class SyntaxProblem : public Problem {
 public:
  SyntaxProblem(int line, const std::string& what, ErrorKind kind = ErrorKind::corrupt_file)
      : Problem(kind, what), line_(line) {}
  int line() const { return line_; }

 private:
  int line_;
};

enum class TokenKind : uint8_t {
  data,
  print_begin,
  print_end,
  block_begin,
  block_end,
  name,
  text,
  integer,
  number,
  sign,
  end
};

struct Token {
  TokenKind kind;
  std::string text;  // of data: as printed; of a text literal: its value; of a sign: `==`, `|` ...
  Value value;       // of integer and number
  int line;
  bool is(std::string_view sign) const { return kind == TokenKind::sign && text == sign; }
  bool is_name(std::string_view name) const { return kind == TokenKind::name && text == name; }
};

// The last token is `end`. Throws SyntaxProblem. `source` is valid UTF-8.
std::vector<Token> tokens_of(std::string_view source);

}  // namespace fulgur::jinja
