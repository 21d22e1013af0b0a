#include "data/clean_text.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "text/unicode.h"

namespace fulgur {
namespace {

constexpr Rule kBinary = "binary", kEncoding = "encoding", kEmpty = "empty";
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // U+FEFF

void append(std::string& out, uint32_t c) {
  if (c < 0x80) return out.push_back(char(c));
  if (c < 0x800) return out.append({char(0xC0 | c >> 6), char(0x80 | (c & 0x3F))}), void();
  if (c < 0x10000)
    return out.append({char(0xE0 | c >> 12), char(0x80 | (c >> 6 & 0x3F)), char(0x80 | (c & 0x3F))}), void();
  out.append(
      {char(0xF0 | c >> 18), char(0x80 | (c >> 12 & 0x3F)), char(0x80 | (c >> 6 & 0x3F)), char(0x80 | (c & 0x3F))});
}

// 0: not UTF-16; else which byte of a unit is the high one, 1 the first, 2 the second.
int utf16_order(std::string_view bytes) {
  if (bytes.starts_with("\xFE\xFF")) return 1;
  if (bytes.starts_with("\xFF\xFE")) return 2;
  int64_t zeros[2] = {0, 0};
  for (size_t i = 0; i < bytes.size(); ++i) zeros[i & 1] += bytes[i] == '\0';
  const int64_t all = zeros[0] + zeros[1];
  if (all * 5 < int64_t(bytes.size())) return 0;
  if (zeros[0] * 20 >= all * 19) return 1;
  return zeros[1] * 20 >= all * 19 ? 2 : 0;
}

// A byte too many is cut off; a surrogate without its other half becomes U+FFFD.
std::string from_utf16(std::string_view bytes, int order) {
  std::string out;
  const auto unit = [&](size_t i) {
    const uint32_t a = uint8_t(bytes[i]), b = uint8_t(bytes[i + 1]);
    return order == 1 ? a << 8 | b : b << 8 | a;
  };
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    uint32_t c = unit(i);
    if (c >= 0xD800 && c < 0xE000) {
      const uint32_t low = i + 3 < bytes.size() ? unit(i + 2) : 0;
      if (c < 0xDC00 && low >= 0xDC00 && low < 0xE000) c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00), i += 2;
      else c = 0xFFFD;
    }
    append(out, c);
  }
  return out;
}

struct Utf8Counts {
  int64_t characters = 0, beyond_ascii = 0, broken = 0;  // broken: bytes of no character, and U+FFFD
};

Utf8Counts count_utf8(std::string_view bytes) {
  Utf8Counts counts;
  for (size_t at = 0; at < bytes.size(); ++counts.characters) {
    int invalid = 1;
    const int valid = uint8_t(bytes[at]) < 0x80 ? 1 : utf8_sequence(bytes.substr(at), invalid);
    if (valid <= 0) ++counts.broken, at += size_t(invalid);
    else if (valid == 3 && bytes.substr(at, 3) == kReplacement) ++counts.broken, at += 3;
    else counts.beyond_ascii += valid > 1, at += size_t(valid);
  }
  return counts;
}

// Without the parts of characters that a cut has left at the ends.
std::string_view without_cut_ends(std::string_view bytes) {
  const auto continues = [](char c) { return (uint8_t(c) & 0xC0) == 0x80; };
  for (int i = 0; i < 3 && !bytes.empty() && continues(bytes.front()); ++i) bytes.remove_prefix(1);
  for (size_t back = 1; back <= 3 && back <= bytes.size(); ++back) {
    int invalid = 0;
    const std::string_view tail = bytes.substr(bytes.size() - back);
    if (continues(tail.front())) continue;
    if (uint8_t(tail.front()) >= 0x80 && utf8_sequence(tail, invalid) < 0) bytes.remove_suffix(back);
    break;
  }
  return bytes;
}

// Empty where a byte has no character.
std::string from_windows_1252(std::string_view bytes) {
  static constexpr std::array<uint16_t, 32> kUpper = {0x20AC, 0,      0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
                                                      0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0,      0x017D, 0,
                                                      0,      0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                                      0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0,      0x017E, 0x0178};
  std::string out;
  for (const char byte : bytes) {
    const uint32_t c = uint8_t(byte);
    const uint32_t mapped = c >= 0x80 && c < 0xA0 ? kUpper[c - 0x80] : c;
    if (mapped == 0 && c != 0) return {};
    append(out, mapped);
  }
  return out;
}

// As UTF-8 that may still hold broken characters, few of them; empty where it is beyond repair.
std::string repaired(std::string_view bytes) {
  const size_t end = bytes.find_last_not_of(" \t\r\n");
  bytes = without_cut_ends(bytes.substr(0, end == bytes.npos ? 0 : end + 1));
  const Utf8Counts counts = count_utf8(bytes);
  if (counts.broken * 1000 <= counts.characters) return std::string(bytes);
  if (counts.beyond_ascii == 0 && counts.broken * 10 <= int64_t(bytes.size()) * 3 &&
      bytes.find(kReplacement) == bytes.npos)
    return from_windows_1252(bytes);
  return {};
}

bool is_control(uint32_t c) { return c < 0x20 || (c >= 0x7F && c < 0xA0); }

bool is_binary(std::string_view bytes) {
  const auto odd = [](char c) { return (uint8_t(c) < 0x20 && !(c >= '\t' && c <= '\r')) || c == 0x7F; };
  return std::count_if(bytes.begin(), bytes.end(), odd) * 100 > int64_t(bytes.size());
}

// Line ends become \n; control characters, marks and broken characters go.
std::string plain_lines(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const uint8_t lead = uint8_t(text[at]);
    if (lead >= 0x20 && lead < 0x7F) {
      out.push_back(text[at++]);
      continue;
    }
    int invalid = 1;
    const int bytes = utf8_sequence(text.substr(at), invalid);
    if (bytes <= 0) {
      at += size_t(invalid);
      continue;
    }
    uint8_t length;
    const uint32_t c = code_point_at(text.data() + at, length);
    if (c == '\r' && text.substr(at + 1, 1) == "\n") ++at;
    const bool ends_line = (c >= '\n' && c <= '\r') || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (ends_line) out.push_back('\n');
    else if (c == '\t' || (!is_control(c) && c != 0xFEFF && c != 0xFFFD)) out.append(text.substr(at, length));
    at += length;
  }
  return out;
}

// Without blank lines at the begin and white space at the end.
std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\n");
  if (first == text.npos) return {};
  const size_t line = text.rfind('\n', first);
  text.remove_prefix(line == text.npos ? 0 : line + 1);
  return text.substr(0, text.find_last_not_of(" \t\n") + 1);
}

}  // namespace

CleanText clean_text(std::string_view bytes) {
  std::string decoded, normal;
  if (const int order = utf16_order(bytes)) bytes = decoded = from_utf16(bytes, order);
  if (bytes.starts_with(kByteOrderMark)) bytes.remove_prefix(kByteOrderMark.size());
  if (is_binary(bytes)) return {{}, kBinary};
  if (count_utf8(bytes).broken > 0) {
    std::string valid = repaired(bytes);
    if (valid.empty()) return {{}, kEncoding};
    decoded = std::move(valid), bytes = decoded;
  }
  const std::string lines = plain_lines(bytes);
  const std::string_view text = trimmed(cleaned(lines, Normalisation::nfc, normal));
  if (text.empty()) return {{}, kEmpty};
  return {std::string(text), nullptr};
}

}  // namespace fulgur
