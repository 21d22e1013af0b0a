// Windows: every 200-byte window of the evaluation texts, to be found in training text. A hit is compared byte by byte, so
// the answer is exact.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

class Windows {
 public:
  static constexpr int64_t kBytes = 200;

  // Normalised the same way as the training text.
  void add(std::string_view evaluation_document);
  // Once, after the last add.
  void finish();
  bool occurs_in(std::string_view text) const;  // thread-safe, one pass
  int64_t size() const;                         // windows added
};

}  // namespace fulgur
