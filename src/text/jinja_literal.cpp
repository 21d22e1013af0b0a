#include "text/jinja_literal.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "text/jinja_lexer.h"
#include "text/python_text.h"

namespace fulgur::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_code_point(uint32_t c, std::string& out) {
  const auto push = [&](uint32_t byte) { out += char(byte); };
  if (c < 0x80) return push(c);
  if (c < 0x800) return push(0xC0 | c >> 6), push(0x80 | (c & 0x3F));
  if (c < 0x10000) return push(0xE0 | c >> 12), push(0x80 | (c >> 6 & 0x3F)), push(0x80 | (c & 0x3F));
  push(0xF0 | c >> 18), push(0x80 | (c >> 12 & 0x3F)), push(0x80 | (c >> 6 & 0x3F)), push(0x80 | (c & 0x3F));
}

// \xhh, \uhhhh, \Uhhhhhhhh from its digits on; `at` moves behind them.
uint32_t hexadecimal(std::string_view literal, size_t& at, size_t digits, int line) {
  uint32_t c = 0;
  const std::string_view found = literal.substr(at, digits);
  const auto [end, error] = std::from_chars(found.data(), found.data() + found.size(), c, 16);
  if (error != std::errc() || found.size() < digits || end != found.data() + digits)
    throw SyntaxProblem(line,
                        "an escape in a text lacks some of its " + std::to_string(digits) + " hexadecimal digits");
  if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
    throw SyntaxProblem(line, "an escape in a text names no character: " + std::string(found));
  at += digits;
  return c;
}

uint32_t octal(std::string_view literal, size_t& at) {
  uint32_t c = 0;
  for (const size_t end = at + 3; at < std::min(end, literal.size()) && literal[at] >= '0' && literal[at] <= '7'; ++at)
    c = c * 8 + uint32_t(literal[at] - '0');
  return c;
}

// The digits from `at` on, single underscores between them left out; `at` moves behind the last one.
std::string digits(std::string_view text, size_t& at, int base) {
  const auto fits = [&](size_t i) {
    if (i >= text.size()) return false;
    const char c = char(text[i] | 0x20);
    return is_digit(text[i]) ? text[i] - '0' < base : c >= 'a' && c - 'a' + 10 < base;
  };
  std::string found;
  while (fits(at) || (!found.empty() && text[at - 1] != '_' && at < text.size() && text[at] == '_' && fits(at + 1))) {
    if (text[at] != '_') found += text[at];
    ++at;
  }
  return found;
}

// Nothing beyond 64 bits.
std::optional<int64_t> parsed(const std::string& digits, int base) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  return error == std::errc::result_out_of_range ? std::nullopt : std::optional(value);
}

int base_of_prefix(std::string_view text) {
  if (text.size() < 2 || text[0] != '0') return 10;
  const char c = char(text[1] | 0x20);
  return c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
}

// .5 and e5 of 1.5e5; empty where the number is an integer.
std::string fraction(std::string_view text, size_t& at) {
  std::string found;
  if (at + 1 < text.size() && text[at] == '.' && is_digit(text[at + 1])) {
    ++at;
    found = "." + digits(text, at, 10);
  }
  if (at >= text.size() || (text[at] | 0x20) != 'e') return found;
  size_t after = at + 1;
  std::string exponent = "e";
  if (after < text.size() && (text[after] == '+' || text[after] == '-')) exponent += text[after++];
  if (after >= text.size() || !is_digit(text[after])) return found;
  exponent += digits(text, after, 10);
  at = after;
  return found + exponent;
}

double double_of(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc::result_out_of_range) return value;
  const size_t e = text.find('e');
  return e != text.npos && text[e + 1] == '-' ? 0 : std::numeric_limits<double>::infinity();
}

}  // namespace

std::string unescaped(std::string_view literal, int line) {
  constexpr std::string_view kNames = "ntrbfav\\'\"", kValues = "\n\t\r\b\f\a\v\\'\"";
  std::string result;
  for (size_t at = 0; at < literal.size();) {
    const char c = literal[at++];
    if (c != '\\' || at == literal.size()) {
      result += c;
      continue;
    }
    const char name = literal[at];
    const size_t known = kNames.find(name);
    if (known != kNames.npos) result += kValues[known], ++at;
    else if (name == '\n') ++at;
    else if (name >= '0' && name <= '7') append_code_point(octal(literal, at), result);
    else if (name == 'x') append_code_point(hexadecimal(literal, ++at, 2, line), result);
    else if (name == 'u') append_code_point(hexadecimal(literal, ++at, 4, line), result);
    else if (name == 'U') append_code_point(hexadecimal(literal, ++at, 8, line), result);
    else if (name == 'N') throw SyntaxProblem(line, "not supported: \\N{...} in a text", ErrorKind::unsupported);
    else result += c;
  }
  return result;
}

Value number_literal(std::string_view text, size_t& bytes, int line) {
  const int base = base_of_prefix(text);
  bytes = base == 10 ? 0 : 2;
  const std::string whole = digits(text, bytes, base);
  if (whole.empty()) throw SyntaxProblem(line, "a number without digits after 0x, 0o or 0b");
  const std::string rest = base == 10 ? fraction(text, bytes) : "";
  if (!rest.empty()) return number(double_of(whole + rest));
  if (base == 10 && whole.size() > 1 && whole[0] == '0' && whole.find_first_not_of('0') != whole.npos)
    throw SyntaxProblem(line, "an integer that begins with 0");
  const auto value = parsed(whole, base);
  if (!value)
    throw SyntaxProblem(line, "not supported: the integer " + whole + ", beyond 64 bits", ErrorKind::unsupported);
  return integer(*value);
}

std::optional<Value> integer_of(std::string_view text, int64_t base) {
  text = python::strip(text, python::Side::both);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const int prefix = base_of_prefix(text);
  if (prefix != 10 && (base == prefix || base == 0)) text.remove_prefix(2);
  const int used = base == 0 ? prefix : int(base);
  size_t at = 0;
  const std::string found = digits(text, at, used);
  if (found.empty() || at != text.size()) return std::nullopt;
  const auto value = parsed((negative ? "-" : "") + found, used);
  if (!value) unsupported("the integer " + found + ", beyond 64 bits");
  return integer(*value);
}

std::optional<double> number_of(std::string_view text) {
  text = python::strip(text, python::Side::both);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const double sign = negative ? -1 : 1;
  const std::string name = python::lower(text);
  if (name == "inf" || name == "infinity") return sign * std::numeric_limits<double>::infinity();
  if (name == "nan") return std::numeric_limits<double>::quiet_NaN();
  size_t at = 0;
  std::string whole = digits(text, at, 10);
  const bool dot_ends = !whole.empty() && at + 1 == text.size() && text[at] == '.';
  if (dot_ends) ++at;
  whole = (whole.empty() ? "0" : whole) + fraction(text, at);
  if (text.empty() || at != text.size() || !(is_digit(text[0]) || text[0] == '.')) return std::nullopt;
  return sign * double_of(whole);
}

}  // namespace fulgur::jinja
