// Texts of words that nobody wrote, for tests of what cleans texts.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/random.h"

namespace fulgur::tests {

// Words of their own for every number, from a small vocabulary; a line has 13.
inline std::string words(uint64_t number, int64_t count, char line_end = '\n') {
  static const std::vector<std::string> kNouns{"river",  "garden", "teacher", "letter", "window", "forest", "kitchen",
                                               "engine", "market", "village", "island", "music",  "winter", "doctor",
                                               "horse",  "ladder", "mirror",  "pocket", "silver", "harbour"};
  static const std::vector<std::string> kVerbs{"found",    "carried", "opened",   "painted", "remembered",
                                               "followed", "crossed", "repaired", "watched", "described"};
  static const std::vector<std::string> kSmall{"the", "and", "of", "to", "with", "in", "that", "was", "for", "on"};
  std::string text;
  for (int64_t w = 0; w < count; ++w) {
    const uint32_t draw = philox(11, uint64_t(w), number)[0];
    const std::vector<std::string>& list = w % 3 == 0 ? kSmall : w % 3 == 1 ? kNouns : kVerbs;
    text += list[draw % list.size()] + (w % 13 == 12 ? line_end : ' ');
  }
  return text;
}

}  // namespace fulgur::tests
