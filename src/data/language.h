// A guess of a text's language from its script and its most frequent words. It tells English, Chinese, Japanese and
// Korean; other texts by the script that most of their letters have.
#pragma once
#include <cstdint>
#include <string_view>

namespace fulgur {

enum class Language : uint8_t {
  none,  // no letters
  en,
  zh,
  ja,
  ko,
  latin,
  cyrillic,
  greek,
  arabic,
  hebrew,
  devanagari,
  thai,
  other
};
inline constexpr int kLanguages = int(Language::other) + 1;

const char* name_of(Language language);

// Valid UTF-8.
Language guess_language(std::string_view text);

// Scripts that put no spaces between words: each character counts as half a word.
bool is_unspaced(uint32_t code_point);

}  // namespace fulgur
