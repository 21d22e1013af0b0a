#include "data/shingles.h"

#include <algorithm>
#include <array>

#include "text/unicode.h"

namespace fulgur {
namespace {

constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;

struct Range {
  uint32_t first, last;
};
// Thai, Lao, Myanmar, Khmer, kana, Han.
constexpr Range kUnspaced[] = {{0x0E00, 0x0EFF}, {0x1000, 0x109F},  {0x1780, 0x17FF}, {0x3040, 0x30FF},
                               {0x31F0, 0x31FF}, {0x3400, 0x4DBF},  {0x4E00, 0x9FFF}, {0xF900, 0xFAFF},
                               {0xFF66, 0xFF9D}, {0x20000, 0x3FFFF}};

bool is_unspaced(uint32_t code_point) {
  if (code_point >= 0x4E00 && code_point <= 0x9FFF) return true;
  return std::any_of(std::begin(kUnspaced), std::end(kUnspaced),
                     [&](const Range& r) { return code_point >= r.first && code_point <= r.last; });
}

// The ASCII characters of words, in lower case; 0 for those that separate.
constexpr std::array<uint8_t, 128> kFolded = [] {
  std::array<uint8_t, 128> table{};
  for (int c = '0'; c <= '9'; ++c) table[size_t(c)] = uint8_t(c);
  for (int c = 'a'; c <= 'z'; ++c) table[size_t(c)] = table[size_t(c - 'a' + 'A')] = uint8_t(c);
  return table;
}();

// The words of a text and the characters of its unspaced scripts, as hashes whose lowest bit tells which: 1 is a
// character.
class Units {
 public:
  explicit Units(std::string_view text) : text_(text), flags_(char_flags()) {}

  bool next(uint64_t& unit) {
    uint64_t hash = 0;  // of a word begun; a word's hash is never 0
    while (at_ < text_.size()) {
      uint32_t letter = 0;
      int bytes = 1;
      const uint8_t byte = uint8_t(text_[at_]);
      if (byte < 0x80) letter = kFolded[byte];
      else letter = decode(bytes);
      if (letter && byte >= 0x80 && is_unspaced(letter)) {
        if (hash) break;
        at_ += size_t(bytes);
        return unit = mixed(letter) | 1, true;
      }
      if (!letter && hash) break;
      at_ += size_t(bytes);
      if (letter) hash = ((hash ^ letter) + kOdd) * 0x100000001b3 | uint64_t(1) << 63;
    }
    unit = mixed(hash) & ~uint64_t(1);
    return hash != 0;
  }

 private:
  // The code point at at_; 0 where it belongs to no word.
  uint32_t decode(int& bytes) const {
    int invalid = 1;
    bytes = utf8_sequence(text_.substr(at_), invalid);
    if (bytes <= 0) return bytes = invalid, 0;
    uint8_t length;
    const uint32_t code_point = code_point_at(text_.data() + at_, length);
    return flags_[code_point] & (kLetter | kMark | kNumber) ? code_point : 0;
  }

  std::string_view text_;
  const CharFlags* flags_;
  size_t at_ = 0;
};

uint64_t hash_of(const uint64_t* units, size_t count) {
  uint64_t hash = count;
  for (size_t i = 0; i < count; ++i) hash = (hash ^ units[i]) * kOdd;
  return mixed(hash);
}

}  // namespace

std::vector<uint64_t> shingle_hashes(std::string_view text) {
  std::vector<uint64_t> units;
  units.reserve(text.size() / 4 + 1);
  Units reader(text);
  for (uint64_t unit; reader.next(unit);) units.push_back(unit);
  std::vector<uint64_t> hashes;
  hashes.reserve(units.size());
  for (size_t i = 0; i < units.size(); ++i) {
    const size_t count = size_t(units[i] & 1 ? kShingleCharacters : kShingleWords);
    if (i + count <= units.size()) hashes.push_back(hash_of(&units[i], count));
  }
  if (hashes.empty()) hashes.push_back(hash_of(units.data(), units.size()));
  return hashes;
}

}  // namespace fulgur
