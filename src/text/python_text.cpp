#include "text/python_text.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/unicode.h"

namespace fulgur::python {
namespace {

uint32_t code_point(std::string_view character) {
  uint8_t bytes;
  return code_point_at(character.data(), bytes);
}

icu::UnicodeString wide(std::string_view text) {
  return icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), int32_t(text.size())));
}

std::string narrow(const icu::UnicodeString& text) {
  std::string bytes;
  return text.toUTF8String(bytes);
}

std::string title_case_of(std::string_view character) {
  icu::UnicodeString text = wide(character);
  return narrow(text.toTitle(nullptr, icu::Locale::getRoot()));
}

bool is_cased(uint32_t c) { return u_hasBinaryProperty(UChar32(c), UCHAR_CASED); }

bool is_printable(uint32_t c) {
  const uint32_t hidden = U_GC_C_MASK | U_GC_Z_MASK;
  return c == ' ' || !(U_GET_GC_MASK(UChar32(c)) & hidden);
}

bool is_line_end(uint32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool is_digit(uint32_t c) {
  const int32_t type = u_getIntPropertyValue(UChar32(c), UCHAR_NUMERIC_TYPE);
  return type == U_NT_DECIMAL || type == U_NT_DIGIT;
}

bool is_alphabetic(uint32_t c) { return (U_GET_GC_MASK(UChar32(c)) & U_GC_L_MASK) != 0; }

bool is_numeric(uint32_t c) { return u_getIntPropertyValue(UChar32(c), UCHAR_NUMERIC_TYPE) != U_NT_NONE; }

bool all_of(std::string_view text, bool (*holds)(uint32_t)) {
  const auto all = characters(text);
  return !all.empty() && std::all_of(all.begin(), all.end(), [&](auto c) { return holds(code_point(c)); });
}

// At least one cased code point, and none of the other case.
bool in_one_case(std::string_view text, UProperty wanted, UProperty other) {
  bool cased = false;
  for (const auto character : characters(text)) {
    const auto c = UChar32(code_point(character));
    if (u_hasBinaryProperty(c, other) || u_charType(c) == U_TITLECASE_LETTER) return false;
    cased |= bool(u_hasBinaryProperty(c, wanted));
  }
  return cased;
}

Pieces split_at_spaces(std::string_view text, int64_t limit) {
  Pieces pieces;
  std::string_view rest = strip(text, Side::left);
  while (!rest.empty()) {
    if (limit >= 0 && int64_t(pieces.size()) == limit) {
      pieces.emplace_back(rest);
      break;
    }
    size_t end = 0;
    for (uint8_t bytes; end < rest.size() && !is_space(code_point_at(rest.data() + end, bytes));) end += bytes;
    pieces.emplace_back(rest.substr(0, end));
    rest = strip(rest.substr(end), Side::left);
  }
  return pieces;
}

Pieces split_at_spaces_from_right(std::string_view text, int64_t limit) {
  Pieces pieces;
  std::string_view rest = strip(text, Side::right);
  while (!rest.empty()) {
    if (limit >= 0 && int64_t(pieces.size()) == limit) {
      pieces.emplace_back(rest);
      break;
    }
    const auto all = characters(rest);
    size_t count = all.size();
    while (count > 0 && !is_space(code_point(all[count - 1]))) --count;
    const size_t begin = count == all.size() ? rest.size() : size_t(all[count].data() - rest.data());
    pieces.emplace_back(rest.substr(begin));
    rest = strip(rest.substr(0, begin), Side::right);
  }
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

template <class Strips>
std::string_view strip_if(std::string_view text, Side side, Strips strips) {
  if (side != Side::right) {
    for (uint8_t bytes; !text.empty() && strips(code_point_at(text.data(), bytes));) text.remove_prefix(bytes);
  }
  while (side != Side::left && !text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && (uint8_t(text[begin]) & 0xC0) == 0x80) --begin;
    if (!strips(code_point(text.substr(begin)))) break;
    text = text.substr(0, begin);
  }
  return text;
}

}  // namespace

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> pieces;
  for (size_t at = 0; at < text.size();) {
    uint8_t bytes;
    code_point_at(text.data() + at, bytes);
    pieces.push_back(text.substr(at, bytes));
    at += bytes;
  }
  return pieces;
}

int64_t length(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (uint8_t(c) & 0xC0) != 0x80; });
}

bool is_space(uint32_t c) { return (c >= 0x1C && c <= 0x1F) || (char_flags()[c] & kSpace); }

std::string_view strip(std::string_view text, Side side) { return strip_if(text, side, is_space); }

std::string_view strip(std::string_view text, std::string_view chars, Side side) {
  std::vector<uint32_t> set;
  for (const auto character : characters(chars)) set.push_back(code_point(character));
  return strip_if(text, side, [&](uint32_t c) { return std::find(set.begin(), set.end(), c) != set.end(); });
}

std::string upper(std::string_view text) { return narrow(wide(text).toUpper(icu::Locale::getRoot())); }
std::string lower(std::string_view text) { return narrow(wide(text).toLower(icu::Locale::getRoot())); }
std::string casefold(std::string_view text) { return narrow(wide(text).foldCase()); }

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  const std::string_view first = characters(text).front();
  return title_case_of(first) + lower(text).substr(lower(first).size());
}

std::string title(std::string_view text) {
  std::string result;
  bool inside = false;  // a word
  for (const auto character : characters(text)) {
    result += inside ? lower(character) : title_case_of(character);
    inside = is_cased(code_point(character));
  }
  return result;
}

Pieces split(std::string_view text, std::string_view separator, int64_t limit) {
  if (separator.empty()) return split_at_spaces(text, limit);
  Pieces pieces;
  for (size_t at; (limit < 0 || int64_t(pieces.size()) < limit) && (at = text.find(separator)) != text.npos;) {
    pieces.emplace_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  pieces.emplace_back(text);
  return pieces;
}

Pieces split_from_right(std::string_view text, std::string_view separator, int64_t limit) {
  if (separator.empty()) return split_at_spaces_from_right(text, limit);
  Pieces pieces;
  for (size_t at; (limit < 0 || int64_t(pieces.size()) < limit) && (at = text.rfind(separator)) != text.npos;) {
    pieces.emplace_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  pieces.emplace_back(text);
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

Pieces split_lines(std::string_view text, bool keep_ends) {
  Pieces lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    uint8_t bytes;
    const uint32_t c = code_point_at(text.data() + at, bytes);
    size_t next = at + bytes;
    if (is_line_end(c)) {
      if (c == '\r' && next < text.size() && text[next] == '\n') ++next;
      lines.emplace_back(text.substr(begin, (keep_ends ? next : at) - begin));
      begin = next;
    }
    at = next;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::string replace(std::string_view text, std::string_view old, std::string_view with, int64_t limit) {
  std::string result;
  if (old.empty()) {  // before every character and at the end
    for (const auto character : characters(text)) {
      if (limit != 0) result += with, --limit;
      result += character;
    }
    if (limit != 0) result += with;
    return result;
  }
  for (size_t at; limit != 0 && (at = text.find(old)) != text.npos; --limit) {
    result.append(text.substr(0, at)).append(with);
    text.remove_prefix(at + old.size());
  }
  return result.append(text);
}

bool has_property(std::string_view text, std::string_view name) {
  if (name == "isascii") return std::all_of(text.begin(), text.end(), [](char c) { return uint8_t(c) < 0x80; });
  if (name == "isspace") return all_of(text, is_space);
  if (name == "isdigit") return all_of(text, is_digit);
  if (name == "isdecimal")
    return all_of(text, [](uint32_t c) { return u_charType(UChar32(c)) == U_DECIMAL_DIGIT_NUMBER; });
  if (name == "isnumeric") return all_of(text, is_numeric);
  if (name == "isalpha") return all_of(text, is_alphabetic);
  if (name == "isalnum") return all_of(text, [](uint32_t c) { return is_alphabetic(c) || is_numeric(c); });
  if (name == "isupper") return in_one_case(text, UCHAR_UPPERCASE, UCHAR_LOWERCASE);
  return in_one_case(text, UCHAR_LOWERCASE, UCHAR_UPPERCASE);  // islower
}

std::string quoted(std::string_view text) {
  const bool doubled = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = doubled ? '"' : '\'';
  std::string result(1, quote);
  for (const auto character : characters(text)) {
    const uint32_t c = code_point(character);
    char escaped[16];
    if (c == '\n') result += "\\n";
    else if (c == '\r') result += "\\r";
    else if (c == '\t') result += "\\t";
    else if (c == '\\' || c == uint32_t(quote)) (result += '\\') += character;
    else if (is_printable(c)) result += character;
    else {
      const char* form = c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x";
      std::snprintf(escaped, sizeof escaped, form, c);
      result += escaped;
    }
  }
  return result + quote;
}

std::string shortest(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific).ptr;
  const std::string_view all(buffer, size_t(end - buffer));
  const size_t e = all.find('e');
  int exponent = 0;
  std::from_chars(buffer + e + (all[e + 1] == '+' ? 2 : 1), end, exponent);
  if (exponent < -4 || exponent >= 16) return std::string(all);
  std::string fixed(400, '\0');
  fixed.resize(
      size_t(std::to_chars(fixed.data(), fixed.data() + 400, number, std::chars_format::fixed).ptr - fixed.data()));
  return fixed.find('.') == fixed.npos ? fixed + ".0" : fixed;
}

}  // namespace fulgur::python
