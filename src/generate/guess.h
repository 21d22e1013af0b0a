// Guesses of what comes next, from the text itself.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace fulgur {

// What followed the latest earlier place where the last three tokens stand, else the last two: at most `most` tokens,
// none where there is no such place.
std::vector<int32_t> guess_next(std::span<const int32_t> tokens, int64_t most);

}  // namespace fulgur
