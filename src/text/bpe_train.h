// Trains byte-level BPE: from the 256 bytes on, the most frequent pair of neighbours inside words becomes a token,
// until the vocabulary is full. Equal texts give equal vocabularies, whatever the number of threads: among equal counts
// the lowest (left, right) ids win.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "text/vocabulary.h"
#include "text/word_counts.h"

namespace fulgur {

// The last ids of a vocabulary of ours, in this order.
inline constexpr std::array<std::string_view, 4> kOurSpecialTokens = {"<beginning_of_sentence>", "<end_of_sentence>",
                                                                      "<end_of_document>", "<pad>"};

struct BpeTrainerOptions {
  int threads = 1;
  // Of the counting, then of the merging. Counts that do not fit wait on disk; where the merging has no room for all
  // words, it learns of the most frequent ones.
  int64_t memory_bytes = int64_t(2) << 30;
  std::filesystem::path spill_folder = {};  // empty: TMPDIR, else /tmp
};

class BpeTrainer {
 public:
  // vocab_size counts the bytes, the merges and the special tokens. Throws invalid_input where they do not fit.
  explicit BpeTrainer(int64_t vocab_size, const BpeTrainerOptions& options = {});

  // A document each. Throws not_found where the spill folder cannot be written, as close does.
  void add(std::span<const std::string> documents) { counts_.add(documents); }

  // The words that merges will be learnt from; then nothing more is added.
  struct Words {
    int64_t distinct, all_distinct;        // learnt from; counted
    int64_t occurrences, all_occurrences;  // of these
  };
  Words close();

  // Called with the merges done and all of them; first with none, when merging begins.
  using Progress = std::function<void(int64_t done, int64_t total)>;
  // Closes where that was not done. Throws invalid_input where the text has too few different words for so many merges.
  // Once only.
  Vocabulary train(const Progress& progress);

 private:
  int64_t merges_, memory_bytes_;
  WordCounts counts_;
  bool is_closed_ = false;
  CountedWords words_;
};

}  // namespace fulgur
