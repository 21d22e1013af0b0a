// Both directions are computed from one rule: how many bytes below a given one are not printable.
#include "text/byte_alphabet.h"

#include <array>
#include <cstdint>

namespace fulgur {
namespace {

constexpr bool is_printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

constexpr int kOthers = 68;

struct Alphabet {
  std::array<uint16_t, 256> code_point{};
  std::array<int16_t, 256 + kOthers> byte{};
};

constexpr Alphabet make_alphabet() {
  Alphabet made;
  made.byte.fill(-1);
  int others = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const int code_point = is_printable(byte) ? byte : 256 + others++;
    made.code_point[size_t(byte)] = uint16_t(code_point);
    made.byte[size_t(code_point)] = int16_t(byte);
  }
  return made;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

std::string to_byte_alphabet(std::string_view bytes) {
  std::string text;
  text.reserve(2 * bytes.size());
  for (const char byte : bytes) {
    const uint16_t c = kAlphabet.code_point[uint8_t(byte)];
    if (c < 0x80) {
      text += char(c);
    } else {
      text += char(0xC0 | c >> 6);
      text += char(0x80 | (c & 0x3F));
    }
  }
  return text;
}

std::optional<std::string> from_byte_alphabet(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t at = 0; at < text.size(); ++at) {
    unsigned c = uint8_t(text[at]);
    if (c >= 0x80) {
      if (c < 0xC2 || c > 0xC5 || at + 1 == text.size()) return std::nullopt;
      c = (c & 0x1F) << 6 | (uint8_t(text[++at]) & 0x3F);
    }
    if (c >= kAlphabet.byte.size() || kAlphabet.byte[c] < 0) return std::nullopt;
    bytes += char(kAlphabet.byte[c]);
  }
  return bytes;
}

}  // namespace fulgur
