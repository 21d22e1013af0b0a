// Unicode as the tokenizer needs it: one byte of facts per code point, repair of UTF-8, NFC.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fulgur {

// The facts of one code point, a set of these bits.
using CharFlags = uint8_t;
inline constexpr CharFlags kUpper = 1;         // Lu, Lt
inline constexpr CharFlags kLower = 2;         // Ll
inline constexpr CharFlags kCaseless = 4;      // Lm, Lo
inline constexpr CharFlags kMark = 8;          // Mn, Mc, Me
inline constexpr CharFlags kNumber = 16;       // Nd, Nl, No
inline constexpr CharFlags kSpace = 32;        // White_Space; U+001C..1F are not in it
inline constexpr CharFlags kPunctuation = 64;  // P and S
inline constexpr CharFlags kUnsettled = 128;   // NFC may change it or what stands before it
inline constexpr CharFlags kLetter = kUpper | kLower | kCaseless;

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// The flags of U+0000..U+10FFFF, indexed by code point; built at the first call.
const CharFlags* char_flags();

struct Char {
  CharFlags flags;
  uint8_t bytes;
};

// The character that starts at `at` in valid UTF-8.
inline uint32_t code_point_at(const char* at, uint8_t& bytes) {
  const auto byte = [&](int i) { return uint32_t(uint8_t(at[i])); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return bytes = 1, lead;
  if (lead < 0xE0) return bytes = 2, (lead & 0x1F) << 6 | (byte(1) & 0x3F);
  if (lead < 0xF0) return bytes = 3, (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  return bytes = 4, (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}

inline Char char_at(const CharFlags* flags, const char* at) {
  Char found;
  found.flags = flags[code_point_at(at, found.bytes)];
  return found;
}

// Bytes of the valid UTF-8 sequence at the start of `text`; 0 if it is invalid there, -1 if it is cut off by the end.
// `invalid_bytes` is set for 0 and -1: how many bytes one U+FFFD stands for.
int utf8_sequence(std::string_view text, int& invalid_bytes);

// Appends `bytes` as valid UTF-8: each maximal part of an invalid sequence becomes one U+FFFD, as everywhere on the
// web. Returns how many bytes were used: fewer than all only if the last character is cut off by the end.
size_t append_valid_utf8(std::string_view bytes, std::string& out);

// `bytes` as valid UTF-8, a character cut off by the end being one U+FFFD.
std::string to_valid_utf8(std::string_view bytes);

enum class Normalisation : uint8_t { none, nfc };

// `text` as valid UTF-8 in the asked form; it is `text` itself wherever nothing has to change, else held by `storage`.
std::string_view cleaned(std::string_view text, Normalisation form, std::string& storage);

}  // namespace fulgur
