// Byte-pair merging of one word: of all neighbours that may merge, the earliest learned merge first, the leftmost of
// equals, until none is left. A word of any length takes O(n log n).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/vocabulary.h"

namespace fulgur {

class BytePairMerger {
 public:
  static constexpr uint32_t kNoMerge = UINT32_MAX;

  // byte_ids: the token of each single byte. tokens: the bytes of each token.
  BytePairMerger(std::span<const int32_t, 256> byte_ids, std::span<const Merge> merges,
                 std::span<const std::string> tokens);

  // Appends the tokens of `word`, which is not empty.
  void append_tokens(std::string_view word, std::vector<int32_t>& out) const;

  // Bytes up to the first place between two characters that no token reaches across; all bytes if there is none. What
  // stands before and after such a place merges as if it were a word of its own. `word` is valid UTF-8.
  size_t independent_prefix(std::string_view word) const;

 private:
  uint32_t rank_of(int32_t left, int32_t right) const {
    const uint64_t key = uint64_t(left) << kIdBits | uint64_t(right);
    for (size_t slot = key * kHashFactor >> shift_;; slot = (slot + 1) & mask_) {
      const uint64_t entry = slots_[slot];
      if (entry >> kIdBits == key) return uint32_t(entry & kIdMask);
      if (entry == kEmpty) return kNoMerge;
    }
  }
  void append_short(std::string_view word, std::vector<int32_t>& out) const;
  void append_long(std::string_view word, std::vector<int32_t>& out) const;

  // Two bytes before and two after a place between characters, of which one bit says whether a token reaches across.
  // Distinct places may share a bit, which costs a cut but no exactness.
  static size_t place_key(uint8_t before_last, uint8_t last, uint8_t first, uint8_t second) {
    return size_t(before_last & 0x3F) << 17 | size_t(last & 0x3F) << 11 | size_t(first & 0x1F) << 6 | (second & 0x3F);
  }
  static bool is_place(uint8_t last, uint8_t first) { return (last & 0xC0) == 0x80 && first >= 0xC0; }
  void mark_crossed(std::string_view token);

  static constexpr int kIdBits = 21;
  static constexpr uint64_t kIdMask = (uint64_t(1) << kIdBits) - 1;
  static constexpr uint64_t kEmpty = UINT64_MAX;
  static constexpr uint64_t kHashFactor = 0x9E3779B97F4A7C15;

  std::vector<int32_t> byte_ids_;
  std::vector<uint32_t> byte_ranks_;  // [256 * 256] rank of two bytes side by side
  std::vector<int32_t> results_;      // [rank] the merged token
  std::vector<uint64_t> slots_;       // open addressing: left, right, rank in 21 bits each
  std::vector<bool> crossed_;         // [place_key]
  size_t mask_ = 0;
  int shift_ = 0;
};

// The tokens of words that came before: most words of a text are repetitions. Belongs to one caller at a time.
class WordCache {
 public:
  explicit WordCache(size_t entries = 1 << 15);

  static constexpr size_t kLongestWord = 15, kMostTokens = 3;
  struct Entry {
    uint64_t key[2];  // the word's bytes, then zeros, then its length in the last byte; all zero if unused
    int32_t tokens[kMostTokens];
    int32_t count;
  };
  // The place for `word`, of 1..15 bytes, that lies in a text ending at `text_end`.
  Entry& place(std::string_view word, const char* text_end, uint64_t (&key)[2]);

 private:
  std::vector<Entry> entries_;
  int shift_;
};

}  // namespace fulgur
