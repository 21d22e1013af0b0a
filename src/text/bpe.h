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
    const uint64_t hash = key * kHashFactor;
    if (!may_merge_[hash >> kFilterShift]) return kNoMerge;
    for (size_t slot = hash >> shift_;; slot = (slot + 1) & mask_) {
      const uint64_t entry = slots_[slot];
      if (entry >> kIdBits == key) return uint32_t(entry & kIdMask);
      if (entry == kEmpty) return kNoMerge;
    }
  }
  void append_short(std::string_view word, std::vector<int32_t>& out) const;
  void append_long(std::string_view word, std::vector<int32_t>& out) const;

  void mark_crossed(std::string_view token);

  static constexpr int kIdBits = 21;
  static constexpr int kFilterShift = 64 - 21;
  static constexpr uint64_t kIdMask = (uint64_t(1) << kIdBits) - 1;
  static constexpr uint64_t kEmpty = UINT64_MAX;
  static constexpr uint64_t kHashFactor = 0x9E3779B97F4A7C15;

  std::vector<int32_t> byte_ids_;
  std::vector<uint32_t> byte_ranks_;  // [256 * 256] rank of two bytes side by side
  std::vector<int32_t> results_;      // [rank] the merged token
  std::vector<bool> may_merge_;       // [hash of a pair] false for most that do not: small enough to stay in cache
  std::vector<uint64_t> slots_;       // open addressing: left, right, rank in 21 bits each
  // Two sets of places between characters that a token reaches across, where some other places may seem to be too.
  std::vector<bool> crossed_by_whole_;  // [hash of both characters] the token shows both
  std::vector<bool> crossed_by_parts_;  // [bytes beside the place] the token shows only a part of one
  size_t mask_ = 0;
  int shift_ = 0;
};

}  // namespace fulgur
