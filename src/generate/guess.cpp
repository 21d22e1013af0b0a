#include "generate/guess.h"

#include <algorithm>

namespace fulgur {

std::vector<int32_t> guess_next(std::span<const int32_t> tokens, int64_t most) {
  const int64_t count = int64_t(tokens.size());
  if (most <= 0) return {};
  for (const int64_t length : {int64_t(3), int64_t(2)}) {
    const auto last = tokens.last(size_t(std::min(length, count)));
    for (int64_t end = count - 1; end >= length; --end) {
      const auto before = tokens.subspan(size_t(end - length), size_t(length));
      if (!std::equal(before.begin(), before.end(), last.begin(), last.end())) continue;
      const auto next = tokens.subspan(size_t(end), size_t(std::min(most, count - end)));
      return {next.begin(), next.end()};
    }
  }
  return {};
}

}  // namespace fulgur
