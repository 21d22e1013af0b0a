// WordCache: the tokens of words that came before, since most words of a text are repetitions. One caller at a time.
#pragma once
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace fulgur {

class WordCache {
 public:
  explicit WordCache(size_t words = 1 << 16);

  // What is longer, or more tokens, is not kept.
  static constexpr size_t kLongestWord = 15, kMostTokens = 3;

  // The word's bytes, then zeros, then its length in the last byte.
  struct Key {
    uint64_t low = 0, high = 0;
    bool operator==(const Key&) const = default;
  };
  // `word` has 1..15 bytes and lies in a text that ends at `text_end`.
  static Key key_of(std::string_view word, const char* text_end) {
    Key key;
    const size_t bytes = word.size();
    if (text_end - word.data() >= 16) {
      std::memcpy(&key, word.data(), 16);
      const uint64_t kept = (uint64_t(1) << (8 * bytes & 63)) - 1;  // of the half that the word ends in
      key.high = bytes < 8 ? 0 : key.high & kept;
      key.low = bytes < 8 ? key.low & kept : key.low;
    } else {
      std::memcpy(&key, word.data(), bytes);
    }
    key.high |= uint64_t(bytes) << 56;
    return key;
  }

  struct Entry {
    Key key;  // no word has 0, 0
    int32_t tokens[kMostTokens];
    int32_t count;
  };
  // nullptr if the word is not there.
  const Entry* find(const Key& key) const {
    const Pair& pair = pairs_[place_of(key)];
    if (pair.newer.key == key) return &pair.newer;
    return pair.older.key == key ? &pair.older : nullptr;
  }
  void store(const Key& key, std::span<const int32_t> tokens);

 private:
  struct alignas(64) Pair {  // one cache line
    Entry newer{}, older{};
  };
  size_t place_of(const Key& key) const {
    const uint64_t mixed = (key.low ^ (key.high * 0x9E3779B97F4A7C15)) * 0xD6E8FEB86659FD93;
    return (mixed ^ mixed >> 32) * 0x9E3779B97F4A7C15 >> shift_;
  }

  std::vector<Pair> pairs_;
  int shift_;
};

}  // namespace fulgur
