// Tables and NFC come from ICU; the usual text never reaches it, because one pass sees that nothing has to change.
#include "text/unicode.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr uint32_t kCodePoints = 0x110000;

CharFlags category_flags(UCharCategory category) {
  switch (category) {
    case U_UPPERCASE_LETTER:
    case U_TITLECASE_LETTER: return kUpper;
    case U_LOWERCASE_LETTER: return kLower;
    case U_MODIFIER_LETTER:
    case U_OTHER_LETTER: return kCaseless;
    case U_NON_SPACING_MARK:
    case U_ENCLOSING_MARK:
    case U_COMBINING_SPACING_MARK: return kMark;
    case U_DECIMAL_DIGIT_NUMBER:
    case U_LETTER_NUMBER:
    case U_OTHER_NUMBER: return kNumber;
    case U_DASH_PUNCTUATION:
    case U_START_PUNCTUATION:
    case U_END_PUNCTUATION:
    case U_CONNECTOR_PUNCTUATION:
    case U_OTHER_PUNCTUATION:
    case U_INITIAL_PUNCTUATION:
    case U_FINAL_PUNCTUATION:
    case U_MATH_SYMBOL:
    case U_CURRENCY_SYMBOL:
    case U_MODIFIER_SYMBOL:
    case U_OTHER_SYMBOL: return kPunctuation;
    default: return 0;
  }
}

void add_flag(CharFlags* table, const icu::UnicodeSet& set, CharFlags flag) {
  for (int range = 0; range < set.getRangeCount(); ++range) {
    for (UChar32 c = set.getRangeStart(range); c <= set.getRangeEnd(range); ++c) table[c] |= flag;
  }
}

icu::UnicodeSet characters_with(UProperty property, int value) {
  UErrorCode status = U_ZERO_ERROR;
  icu::UnicodeSet set;
  set.applyIntPropertyValue(property, value, status);
  expect(U_SUCCESS(status), "ICU knows the properties that tokenizers use");
  return set;
}

UBool set_category(const void* table, UChar32 start, UChar32 limit, UCharCategory category) {
  auto* flags = static_cast<CharFlags*>(const_cast<void*>(table));
  std::memset(flags + start, category_flags(category), size_t(limit - start));
  return true;
}

std::unique_ptr<CharFlags[]> build_char_flags() {
  auto table = std::make_unique<CharFlags[]>(kCodePoints);
  u_enumCharTypes(set_category, table.get());
  add_flag(table.get(), characters_with(UCHAR_WHITE_SPACE, 1), kSpace);
  add_flag(table.get(), characters_with(UCHAR_NFC_QUICK_CHECK, UNORM_NO), kUnsettled);
  add_flag(table.get(), characters_with(UCHAR_NFC_QUICK_CHECK, UNORM_MAYBE), kUnsettled);
  add_flag(table.get(), characters_with(UCHAR_CANONICAL_COMBINING_CLASS, 0).complement(), kUnsettled);
  return table;
}

// Bytes at the start of `text` that are ASCII, in steps of eight.
size_t ascii_prefix(std::string_view text) {
  size_t at = 0;
  for (uint64_t eight; at + 8 <= text.size(); at += 8) {
    std::memcpy(&eight, text.data() + at, 8);
    if (eight & 0x8080808080808080) break;
  }
  while (at < text.size() && uint8_t(text[at]) < 0x80) ++at;
  return at;
}

// Bytes at the start of `text` that are valid and settled, so that NFC keeps them.
size_t clean_prefix(std::string_view text, Normalisation form) {
  const CharFlags* table = char_flags();
  const CharFlags unwanted = form == Normalisation::nfc ? kUnsettled : 0;
  for (size_t at = 0;;) {
    at += ascii_prefix(text.substr(at));
    for (; at < text.size() && uint8_t(text[at]) >= 0x80;) {
      int invalid;
      const int bytes = utf8_sequence(text.substr(at), invalid);
      if (bytes <= 0 || (char_at(table, text.data() + at).flags & unwanted)) return at;
      at += size_t(bytes);
    }
    if (at == text.size()) return at;
  }
}

void append_nfc(std::string_view valid, std::string& out) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(status);
  if (valid.size() > size_t(INT32_MAX)) {
    fail(ErrorKind::unsupported,
         "a line of " + std::to_string(valid.size()) + " bytes is too long for NFC, expected < 2 GiB");
  }
  icu::StringByteSink<std::string> sink(&out);
  nfc->normalizeUTF8(0, icu::StringPiece(valid.data(), int32_t(valid.size())), sink, nullptr, status);
  expect(U_SUCCESS(status), "ICU normalises valid UTF-8");
}

}  // namespace

const CharFlags* char_flags() {
  static const std::unique_ptr<const CharFlags[]> table = build_char_flags();
  return table.get();
}

int utf8_sequence(std::string_view text, int& invalid_bytes) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  invalid_bytes = 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const int bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (text.size() < 2) return -1;
  if (byte(1) < low || byte(1) > high) return 0;
  for (int i = 2; i < bytes; ++i) {
    invalid_bytes = i;
    if (text.size() <= size_t(i)) return -1;
    if ((byte(size_t(i)) & 0xC0) != 0x80) return 0;
  }
  return bytes;
}

size_t append_valid_utf8(std::string_view bytes, std::string& out) {
  size_t kept = 0, at = 0;  // [kept, at) is valid and not yet appended
  while (at < bytes.size()) {
    if (const size_t ascii = ascii_prefix(bytes.substr(at))) {
      at += ascii;
      continue;
    }
    int invalid = 0;
    const int valid = utf8_sequence(bytes.substr(at), invalid);
    if (valid > 0) {
      at += size_t(valid);
      continue;
    }
    out.append(bytes.substr(kept, at - kept));
    if (valid < 0) return at;
    out.append(kReplacement);
    kept = at += size_t(invalid);
  }
  out.append(bytes.substr(kept));
  return bytes.size();
}

std::string to_valid_utf8(std::string_view bytes) {
  std::string out;
  if (append_valid_utf8(bytes, out) < bytes.size()) out.append(kReplacement);
  return out;
}

std::string_view cleaned(std::string_view text, Normalisation form, std::string& storage) {
  if (clean_prefix(text, form) == text.size()) return text;
  std::string valid = to_valid_utf8(text);
  if (form == Normalisation::none) return storage = std::move(valid);
  // Line by line, since a line end is never composed with anything: only the lines that need ICU go there.
  storage.clear();
  for (size_t begin = 0; begin < valid.size();) {
    const size_t line_end = std::min(valid.find('\n', begin), valid.size() - 1) + 1;
    const std::string_view line = std::string_view(valid).substr(begin, line_end - begin);
    if (clean_prefix(line, form) == line.size()) {
      storage.append(line);
    } else {
      append_nfc(line, storage);
    }
    begin = line_end;
  }
  return storage;
}

}  // namespace fulgur
