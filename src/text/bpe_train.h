// Trains byte-level BPE: from the 256 bytes on, the most frequent pair of neighbours inside words becomes a token,
// until the vocabulary is full. Equal texts give equal vocabularies: among equal counts the lowest (left, right) ids
// win.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "text/vocabulary.h"

namespace fulgur {

// The last ids of a vocabulary of ours, in this order.
inline constexpr std::array<std::string_view, 4> kOurSpecialTokens = {"<beginning_of_sentence>", "<end_of_sentence>",
                                                                      "<end_of_document>", "<pad>"};

class BpeTrainer {
 public:
  // vocab_size counts the bytes, the merges and the special tokens. Throws invalid_input where they do not fit.
  explicit BpeTrainer(int64_t vocab_size);

  void add(std::string_view document);

  // Called with the merges done and all of them.
  using Progress = std::function<void(int64_t done, int64_t total)>;
  // Throws invalid_input where the text has too few different words for so many merges.
  Vocabulary train(const Progress& progress) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
  };
  int64_t merges_;
  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> word_counts_;
};

}  // namespace fulgur
