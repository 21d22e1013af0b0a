// Shingles: the short pieces by which two texts are compared. A shingle is five words in a row, or eight characters
// where the script puts no spaces between words: about as much text, since a Chinese word has 1.6 characters.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace fulgur {

// Words are runs of letters, marks and digits, ASCII in lower case; whatever else, invalid UTF-8 too, only separates.
inline constexpr int kShingleWords = 5, kShingleCharacters = 8;

// One hash for each place where a shingle starts, in the text's order. A text too short for any is one shingle.
std::vector<uint64_t> shingle_hashes(std::string_view text);

// A bijection of 64 bits in which every bit of the input moves every bit of the output (the end of MurmurHash3).
constexpr uint64_t mixed(uint64_t x) {
  x = (x ^ x >> 33) * 0xff51afd7ed558ccd;
  x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53;
  return x ^ x >> 33;
}

}  // namespace fulgur
