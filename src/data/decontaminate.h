// Windows: every 200-byte window of the evaluation texts, found again in training text.
#pragma once
#include <cstdint>
#include <string_view>

namespace fulgur {

class Windows {
 public:
  static constexpr int64_t kBytes = 200;

  // Normalised the same way as the training text.
  void add(std::string_view evaluation_document);
  void finish();
  // Thread-safe; rolling hash, one pass.
  bool occurs_in(std::string_view text) const;
  int64_t size() const;
};

}  // namespace fulgur
