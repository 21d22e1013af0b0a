#include "data/language.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <string>

#include "text/unicode.h"

namespace fulgur {
namespace {

enum Script : uint8_t {
  kLatin,
  kHan,
  kKana,
  kHangul,
  kCyrillic,
  kGreek,
  kArabic,
  kHebrew,
  kDevanagari,
  kThai,
  kOther,
  kScripts
};

struct Range {
  uint32_t first, last;
  Script script;
};
constexpr Range kRanges[] = {
    {0x0041, 0x024F, kLatin},  {0x0370, 0x03FF, kGreek},  {0x0400, 0x052F, kCyrillic},   {0x0590, 0x05FF, kHebrew},
    {0x0600, 0x077F, kArabic}, {0x08A0, 0x08FF, kArabic}, {0x0900, 0x097F, kDevanagari}, {0x0E00, 0x0E7F, kThai},
    {0x1100, 0x11FF, kHangul}, {0x1E00, 0x1EFF, kLatin},  {0x1F00, 0x1FFF, kGreek},      {0x3040, 0x30FF, kKana},
    {0x3130, 0x318F, kHangul}, {0x3400, 0x4DBF, kHan},    {0x4E00, 0x9FFF, kHan},        {0xAC00, 0xD7AF, kHangul},
    {0xF900, 0xFAFF, kHan},    {0xFB50, 0xFDFF, kArabic}, {0xFE70, 0xFEFF, kArabic},     {0x20000, 0x323AF, kHan}};

Script script_of(uint32_t c) {
  if (c < 0x80) return kLatin;
  const Range* range = std::upper_bound(std::begin(kRanges), std::end(kRanges), c,
                                        [](uint32_t value, const Range& r) { return value < r.first; });
  return range != std::begin(kRanges) && c <= range[-1].last ? range[-1].script : kOther;
}

// More than a third of the words of English prose; in other languages of its script a few percent at most.
bool is_english_stop_word(std::string_view word) {
  static constexpr std::string_view kWords[] = {"a",    "and", "are",  "as",    "at",   "be",   "but", "by",   "for",
                                                "from", "had", "have", "he",    "his",  "i",    "in",  "is",   "it",
                                                "not",  "of",  "on",   "or",    "she",  "that", "the", "they", "this",
                                                "to",   "was", "were", "which", "with", "you"};
  return word.size() <= 5 && std::binary_search(std::begin(kWords), std::end(kWords), word);
}

struct Letters {
  std::array<int64_t, kScripts> of{};
  int64_t words = 0, stop_words = 0;  // words of Latin letters

  int64_t all() const {
    int64_t sum = 0;
    for (const int64_t n : of) sum += n;
    return sum;
  }
};

Letters count_letters(std::string_view text) {
  const CharFlags* flags = char_flags();
  Letters letters;
  std::string word;
  const auto end_word = [&] {
    if (!word.empty()) ++letters.words, letters.stop_words += is_english_stop_word(word);
    word.clear();
  };
  for (size_t at = 0; at < text.size();) {
    uint8_t bytes;
    const uint32_t c = code_point_at(text.data() + at, bytes);
    at += bytes;
    const bool letter = (flags[c] & kLetter) != 0;
    const Script script = letter ? script_of(c) : kOther;
    letters.of[script] += letter;
    if (letter && script == kLatin) word.push_back(c < 0x80 ? char(c | 0x20) : '~');
    else end_word();
  }
  end_word();
  return letters;
}

}  // namespace

const char* name_of(Language language) {
  static constexpr const char* kNames[kLanguages] = {
      "none", "en", "zh", "ja", "ko", "latin", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "thai", "other"};
  return kNames[int(language)];
}

Language guess_language(std::string_view text) {
  const Letters letters = count_letters(text);
  if (letters.all() == 0) return Language::none;
  const int64_t han = letters.of[kHan], kana = letters.of[kKana];
  auto most = letters.of;
  most[kHan] = han + kana, most[kKana] = 0;
  switch (std::max_element(most.begin(), most.end()) - most.begin()) {
    case kHan: return kana * 10 > han + kana ? Language::ja : Language::zh;
    case kLatin: return letters.stop_words * 8 >= letters.words ? Language::en : Language::latin;
    case kHangul: return Language::ko;
    case kCyrillic: return Language::cyrillic;
    case kGreek: return Language::greek;
    case kArabic: return Language::arabic;
    case kHebrew: return Language::hebrew;
    case kDevanagari: return Language::devanagari;
    case kThai: return Language::thai;
    default: return Language::other;
  }
}

bool is_unspaced(uint32_t code_point) {
  if (code_point < 0x0E00) return false;
  const Script script = script_of(code_point);
  return script == kHan || script == kKana || script == kThai;
}

}  // namespace fulgur
