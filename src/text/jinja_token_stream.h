// The tokens of a template as its parsers read them.
#pragma once
#include <algorithm>

#include "text/jinja_lexer.h"

namespace fulgur::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& following() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token next();
  size_t position() const { return at_; }
  bool uses_since(size_t begin, std::string_view name) const;  // whether the name is among the tokens read since
  bool skip(std::string_view sign);                            // whether it stood there
  bool skip_name(std::string_view name);                       // whether it stood there
  void expect_sign(std::string_view sign);
  void expect_name(std::string_view name);
  std::string any_name();
  void expect_kind(TokenKind kind, const char* what);
  [[noreturn]] void wrong(const std::string& what) const;
  [[noreturn]] void unexpected(const std::string& expected) const;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace fulgur::jinja
