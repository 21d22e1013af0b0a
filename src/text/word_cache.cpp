// Two words share a place; a third takes that of the one stored first.
#include "text/word_cache.h"

#include <algorithm>
#include <bit>

namespace fulgur {

WordCache::WordCache(size_t words) : pairs_(std::bit_ceil(std::max<size_t>(words / 2, 2))) {
  shift_ = 64 - std::countr_zero(pairs_.size());
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
