// TextFilters: the rules by which a document is no prose worth training on. Thresholds as published for Gopher's
// MassiveText (Rae et al. 2021, table A1 and section A1.1) where they say nothing else.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/clean_text.h"
#include "data/language.h"

namespace fulgur {

// Shares are of 1. A word stands between spaces; where a script has none, two characters count as a word.
struct FilterLimits {
  std::vector<std::string> languages;                // by name_of(Language); empty: all
  int64_t min_words = 50, max_words = 100000;        // rules "short", "long"
  double min_word_length = 3, max_word_length = 10;  // "word length", characters on average, where words have spaces
  double min_alphabetic = 0.8;                       // "alphabetic": words with a letter
  double max_symbols = 0.3;                          // "symbols": of characters, our own
  double max_symbol_words = 0.1;                     // "symbol words": # and ellipses over words
  double max_bullet_lines = 0.9, max_ellipsis_lines = 0.3;                   // "bullets", "ellipses"
  double max_repeated_lines = 0.3, max_repeated_line_bytes = 0.2;            // "repeated lines"
  double max_repeated_paragraphs = 0.3, max_repeated_paragraph_bytes = 0.2;  // "repeated paragraphs"
  std::vector<double> max_top_ngram{0.20, 0.18, 0.16};  // "frequent n-gram": bytes of the most frequent, n = 2 ...
  std::vector<double> max_repeated_ngrams{0.15, 0.14, 0.13, 0.12, 0.11, 0.10};  // "repeated n-grams", n = 5 ...
};

// One per thread: keeps its working memory.
class TextFilters {
 public:
  explicit TextFilters(const FilterLimits& limits) : limits_(limits) {}

  // The first rule against the text, which clean_text has given; nullptr: none.
  Rule rule_against(std::string_view text, Language language);

 private:
  struct Counts;
  struct Slot {
    uint64_t hash = 0;
    int64_t count = 0;
  };
  Counts count(std::string_view text);
  Rule against_words(const Counts& counts) const;
  Rule against_lines(std::string_view text);
  bool repeats(std::span<const std::string_view> pieces, double most_pieces, double most_bytes);
  Rule against_ngrams(int64_t units_per_word);
  int64_t add(uint64_t hash);  // how often it came, this time included
  void clear(size_t hashes);
  double top_share(int64_t n);
  double repeated_share(int64_t n);

  const FilterLimits& limits_;
  std::vector<uint64_t> word_hash_, ngram_;
  std::vector<int64_t> word_end_;  // bytes of all words up to this one
  std::vector<Slot> slots_;
};

}  // namespace fulgur
