#include "text/jinja_token_stream.h"

#include "files/json_file.h"

namespace fulgur::jinja {
namespace {

std::string shown(const Token& token) {
  switch (token.kind) {
    case TokenKind::data: return "text outside of tags";
    case TokenKind::print_begin: return "'{{'";
    case TokenKind::print_end: return "'}}'";
    case TokenKind::block_begin: return "'{%'";
    case TokenKind::block_end: return "'%}'";
    case TokenKind::text: return in_quotes(token.text);
    case TokenKind::integer:
    case TokenKind::number: return "the number " + to_repr(token.value);
    case TokenKind::end: return "the end of the template";
    default: return "'" + token.text + "'";
  }
}

}  // namespace

Token TokenStream::next() {
  const Token token = current();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool TokenStream::uses_since(size_t begin, std::string_view name) const {
  const auto first = tokens_.begin() + std::ptrdiff_t(begin), last = tokens_.begin() + std::ptrdiff_t(at_);
  return std::any_of(first, last, [&](const Token& token) { return token.is_name(name); });
}

bool TokenStream::skip(std::string_view sign) {
  if (!current().is(sign)) return false;
  next();
  return true;
}

bool TokenStream::skip_name(std::string_view name) {
  if (!current().is_name(name)) return false;
  next();
  return true;
}

void TokenStream::expect_sign(std::string_view sign) {
  if (!skip(sign)) unexpected("'" + std::string(sign) + "'");
}

void TokenStream::expect_name(std::string_view name) {
  if (!skip_name(name)) unexpected("'" + std::string(name) + "'");
}

std::string TokenStream::any_name() {
  if (current().kind != TokenKind::name) unexpected("a name");
  return next().text;
}

void TokenStream::expect_kind(TokenKind kind, const char* what) {
  if (current().kind != kind) unexpected(what);
  next();
}

void TokenStream::wrong(const std::string& what) const { throw SyntaxProblem(current().line, what); }

void TokenStream::unexpected(const std::string& expected) const {
  wrong("expected " + expected + ", not " + shown(current()));
}

}  // namespace fulgur::jinja
