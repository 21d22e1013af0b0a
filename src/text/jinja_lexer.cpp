#include "text/jinja_lexer.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <optional>

#include "text/jinja_literal.h"
#include "text/python_text.h"
#include "text/unicode.h"

namespace fulgur::jinja {
namespace {

// Line ends as \n; one at the end is no part of the template.
std::string with_plain_line_ends(std::string_view source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') text += source[i];
    else if (i + 1 == source.size() || source[i + 1] != '\n') text += '\n';
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string text) : text_(std::move(text)) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) {
      const size_t tag = next_tag();
      if (tag == text_.npos) {
        add_data(text_.substr(at_));
        at_ = text_.size();
        break;
      }
      read_tag(tag);
    }
    add(TokenKind::end, {});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void wrong(const std::string& what) const { throw SyntaxProblem(line_at(at_), what); }

  int line_at(size_t position) const {  // asked for with rising positions, but for errors
    if (position < counted_) counted_ = 0, line_ = 1;
    line_ += int(std::count(text_.begin() + std::ptrdiff_t(counted_), text_.begin() + std::ptrdiff_t(position), '\n'));
    counted_ = position;
    return line_;
  }

  void add(TokenKind kind, std::string text, Value value = {}) {
    tokens_.push_back({kind, std::move(text), std::move(value), line_at(at_)});
  }

  void add_data(std::string data) {
    if (!data.empty()) add(TokenKind::data, std::move(data));
  }

  // The next {{, {% or {#.
  size_t next_tag() const {
    for (size_t tag = text_.find('{', at_); tag != text_.npos; tag = text_.find('{', tag + 1))
      if (tag + 1 < text_.size() && std::string_view("{%#").find(text_[tag + 1]) != std::string_view::npos) return tag;
    return text_.npos;
  }

  bool starts_here(std::string_view what) const { return std::string_view(text_).substr(at_).starts_with(what); }

  size_t after_spaces(size_t at) const {
    const std::string_view rest = std::string_view(text_).substr(at);
    return text_.size() - python::strip(rest, python::Side::left).size();
  }

  // The text from `at_` to the tag, less the white space that the tag takes away.
  std::string data_before(size_t tag, char sign, bool prints) const {
    const std::string_view data = std::string_view(text_).substr(at_, tag - at_);
    if (sign == '-') return std::string(python::strip(data, python::Side::right));
    if (sign == '+' || prints) return std::string(data);
    const size_t line = data.rfind('\n') + 1;
    const bool begins_line = line > 0 || at_ == 0 || text_[at_ - 1] == '\n';
    const bool blank = line < data.size() && python::strip(data.substr(line), python::Side::left).empty();
    return std::string(begins_line && blank ? data.substr(0, line) : data);
  }

  void read_tag(size_t tag) {
    const char kind = text_[tag + 1], sign = tag + 2 < text_.size() ? text_[tag + 2] : ' ';
    add_data(data_before(tag, sign, kind == '{'));
    at_ = tag;
    if (kind == '%' && read_raw()) return;
    at_ = tag + (sign == '-' || sign == '+' ? 3 : 2);
    if (kind == '#') return skip_comment();
    const bool prints = kind == '{';
    add(prints ? TokenKind::print_begin : TokenKind::block_begin, {});
    open_.clear();
    while (!read_end(prints)) read_token();
  }

  void skip_comment() {
    const size_t end = text_.find("#}", at_);
    if (end == text_.npos) wrong("missing end of comment tag");
    const char sign = end > at_ ? text_[end - 1] : ' ';
    at_ = end + 2;
    if (sign == '-') at_ = after_spaces(at_);
    else if (sign != '+' && starts_here("\n")) ++at_;
  }

  // The end of a tag, if it stands here and no bracket is open.
  bool read_end(bool prints) {
    at_ = after_spaces(at_);
    if (at_ == text_.size()) wrong("unexpected end of template inside a tag");
    if (!open_.empty()) return false;
    const std::string_view end = prints ? "}}" : "%}";
    const char sign = text_[at_];
    const bool strips = sign == '-' && std::string_view(text_).substr(at_ + 1).starts_with(end);
    const bool keeps = !prints && sign == '+' && std::string_view(text_).substr(at_ + 1).starts_with(end);
    if (!strips && !keeps && !starts_here(end)) return false;
    add(prints ? TokenKind::print_end : TokenKind::block_end, {});
    at_ += end.size() + (strips || keeps);
    if (strips) at_ = after_spaces(at_);
    else if (!prints && !keeps && starts_here("\n")) ++at_;
    return true;
  }

  // {% raw %} ... {% endraw %}, both with their signs.
  bool read_raw() {
    const auto opened = tag_named(at_, "raw");
    if (!opened) return false;
    at_ = *opened;
    for (size_t tag = text_.find("{%", at_); tag != text_.npos; tag = text_.find("{%", tag + 2)) {
      const auto closed = tag_named(tag, "endraw");
      if (!closed) continue;
      add_data(data_before(tag, text_[tag + 2], false));
      at_ = *closed;
      if (text_[at_ - 3] != '+' && text_[at_ - 1] == '}' && starts_here("\n")) ++at_;
      return true;
    }
    wrong("missing end of raw directive");
  }

  // Where the tag {%- name -%} ends, white space that it strips included, if it stands at `tag`.
  std::optional<size_t> tag_named(size_t tag, std::string_view name) const {
    size_t at = tag + 2;
    if (at < text_.size() && (text_[at] == '-' || text_[at] == '+')) ++at;
    at = after_spaces(at);
    if (!std::string_view(text_).substr(at).starts_with(name)) return std::nullopt;
    at = after_spaces(at + name.size());
    const std::string_view rest = std::string_view(text_).substr(at);
    if (rest.starts_with("-%}")) return after_spaces(at + 3);
    if (rest.starts_with("+%}") && name == "endraw") return at + 3;
    return rest.starts_with("%}") ? std::optional(at + 2) : std::nullopt;
  }

  void read_token() {
    const char c = text_[at_];
    if (c == '\'' || c == '"') return read_text(c);
    if (c >= '0' && c <= '9') return read_number();
    if (read_name()) return;
    for (const std::string_view sign : {"//", "**", "==", "!=", ">=", "<="})
      if (starts_here(sign)) return read_sign(sign.size());
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos)
      wrong("unexpected character " + std::string(python::characters(text_.substr(at_, 4)).front()));
    read_sign(1);
  }

  void read_sign(size_t bytes) {
    const std::string sign = text_.substr(at_, bytes);
    const size_t opening = std::string_view("([{").find(sign), closing = std::string_view(")]}").find(sign);
    if (opening != std::string_view::npos) open_ += ")]}"[opening];
    if (closing != std::string_view::npos) {
      if (open_.empty()) wrong("unexpected '" + sign + "'");
      if (open_.back() != sign[0]) wrong("unexpected '" + sign + "', expected '" + open_.back() + "'");
      open_.pop_back();
    }
    add(TokenKind::sign, sign);
    at_ += bytes;
  }

  void read_text(char quote) {
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) wrong("a text without its closing quote");
    const std::string_view literal = std::string_view(text_).substr(at_ + 1, end - at_ - 1);
    add(TokenKind::text, unescaped(literal, line_at(at_)));
    at_ = end + 1;
  }

  void read_number() {
    size_t bytes;
    const Value value = number_literal(std::string_view(text_).substr(at_), bytes, line_at(at_));
    add(value.is<double>() ? TokenKind::number : TokenKind::integer, {}, value);
    at_ += bytes;
  }

  bool read_name() {
    size_t end = at_;
    for (uint8_t bytes; end < text_.size(); end += bytes) {
      const auto c = UChar32(code_point_at(text_.data() + end, bytes));
      if (c != '_' && !(end == at_ ? u_isIDStart(c) : u_isIDPart(c) && !u_isIDIgnorable(c))) break;
    }
    if (end == at_) return false;
    add(TokenKind::name, text_.substr(at_, end - at_));
    at_ = end;
    return true;
  }

  const std::string text_;
  size_t at_ = 0;
  std::string open_;  // the brackets that the open ones wait for
  std::vector<Token> tokens_;
  mutable size_t counted_ = 0;
  mutable int line_ = 1;
};

}  // namespace

std::vector<Token> tokens_of(std::string_view source) { return Lexer(with_plain_line_ends(source)).run(); }

}  // namespace fulgur::jinja
