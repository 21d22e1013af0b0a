// Two words share a place; a third takes that of the one stored first.
#include "text/word_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace fulgur {

WordCache::WordCache(size_t words) : pairs_(std::bit_ceil(std::max<size_t>(words / 2, 2))) {
  shift_ = 64 - std::countr_zero(pairs_.size());
}

WordCache::Key WordCache::key_of(std::string_view word, const char* text_end) {
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

void WordCache::store(const Key& key, std::span<const int32_t> tokens) {
  if (tokens.size() > kMostTokens) return;
  Pair& pair = pairs_[place_of(key)];
  pair.older = pair.newer;
  pair.newer.key = key;
  std::copy(tokens.begin(), tokens.end(), pair.newer.tokens);
  pair.newer.count = int32_t(tokens.size());
}

}  // namespace fulgur
