#include "data/text_filters.h"

#include <xxhash.h>

#include <algorithm>

#include "text/unicode.h"

namespace fulgur {
namespace {

constexpr std::string_view kEllipsis = "\xE2\x80\xA6";

// Never 0, which marks a free slot.
uint64_t hash_of(std::string_view text) { return XXH3_64bits(text.data(), text.size()) | 1; }

std::string_view without_spaces(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t");
  if (first == line.npos) return {};
  return line.substr(first, line.find_last_not_of(" \t") + 1 - first);
}

// What stands between separators, without spaces at its ends and without empty pieces.
std::vector<std::string_view> pieces_of(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> pieces;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    const std::string_view piece = without_spaces(text.substr(0, end));
    if (!piece.empty()) pieces.push_back(piece);
    text.remove_prefix(std::min(text.size(), end + separator.size()));
  }
  return pieces;
}

bool is_bullet(std::string_view line) {
  constexpr std::string_view kBullets[] = {
      "\xE2\x80\xA2", "\xE2\x80\xA3", "\xE2\x97\x8F", "\xE2\x97\xA6", "\xE2\x96\xAA", "* ", "- "};
  return std::any_of(std::begin(kBullets), std::end(kBullets), [&](std::string_view b) { return line.starts_with(b); });
}

bool ends_in_ellipsis(std::string_view line) { return line.ends_with("...") || line.ends_with(kEllipsis); }

double share(int64_t part, int64_t whole) { return whole > 0 ? double(part) / double(whole) : 0; }

}  // namespace

struct TextFilters::Counts {
  int64_t characters = 0, symbols = 0;        // without spaces; symbols: neither letter, mark nor number
  int64_t spaced = 0, spaced_characters = 0;  // words between spaces
  int64_t alphabetic = 0;                     // of these, words with a letter
  int64_t unspaced = 0;                       // characters of scripts without spaces
  int64_t symbol_words = 0;                   // # and ellipses

  int64_t words() const { return spaced + unspaced / 2; }
};

// Units for n-grams: words between spaces, and each character of a script without. Punctuation beside such a character
// is no word.
TextFilters::Counts TextFilters::count(std::string_view text) {
  const CharFlags* flags = char_flags();
  Counts counts;
  word_hash_.clear(), word_end_.assign(1, 0);
  const auto add_unit = [&](std::string_view unit) {
    word_hash_.push_back(hash_of(unit));
    word_end_.push_back(word_end_.back() + int64_t(unit.size()));
  };
  struct {
    size_t begin = 0;
    int64_t characters = 0;
    CharFlags flags = 0;  // of all of them
    bool beside_unspaced = false;
  } word;
  const auto end_word = [&](size_t end, bool by_unspaced) {
    const bool has_content = (word.flags & (kLetter | kMark | kNumber)) != 0;
    if (word.characters > 0 && (has_content || !(word.beside_unspaced || by_unspaced))) {
      add_unit(text.substr(word.begin, end - word.begin));
      ++counts.spaced, counts.spaced_characters += word.characters;
      counts.alphabetic += (word.flags & kLetter) != 0;
    }
    word = {.begin = end, .beside_unspaced = by_unspaced};
  };
  for (size_t at = 0; at < text.size();) {
    uint8_t bytes;
    const uint32_t c = code_point_at(text.data() + at, bytes);
    const bool unspaced = is_unspaced(c), space = (flags[c] & kSpace) != 0;
    if (space || unspaced) end_word(at, unspaced);
    if (unspaced) ++counts.unspaced, add_unit(text.substr(at, bytes));
    else if (!space && word.characters++ == 0) word.begin = at;
    if (!space) {
      ++counts.characters, counts.symbols += (flags[c] & (kLetter | kMark | kNumber)) == 0;
      counts.symbol_words += c == '#' || c == 0x2026 || text.substr(at, 3) == "...";
      if (!unspaced) word.flags |= flags[c];
    }
    at += bytes;
  }
  end_word(text.size(), false);
  return counts;
}

Rule TextFilters::against_words(const Counts& c) const {
  if (c.words() < limits_.min_words) return "short";
  if (c.words() > limits_.max_words) return "long";
  const double length = share(c.spaced_characters, c.spaced);
  const bool spaced = c.spaced_characters > c.unspaced;
  if (spaced && (length < limits_.min_word_length || length > limits_.max_word_length)) return "word length";
  if (spaced && share(c.alphabetic, c.spaced) < limits_.min_alphabetic) return "alphabetic";
  if (share(c.symbols, c.characters) > limits_.max_symbols) return "symbols";
  if (share(c.symbol_words, c.words()) > limits_.max_symbol_words) return "symbol words";
  return nullptr;
}

void TextFilters::clear(size_t hashes) {
  size_t slots = 64;
  while (slots < 2 * hashes) slots *= 2;
  slots_.assign(slots, {});
}

int64_t TextFilters::add(uint64_t hash) {
  const size_t mask = slots_.size() - 1;
  size_t at = size_t(hash ^ hash >> 32) & mask;
  while (slots_[at].hash != 0 && slots_[at].hash != hash) at = (at + 1) & mask;
  slots_[at].hash = hash;
  return ++slots_[at].count;
}

bool TextFilters::repeats(std::span<const std::string_view> pieces, double most_pieces, double most_bytes) {
  clear(pieces.size());
  int64_t repeated = 0, repeated_bytes = 0, bytes = 0;
  for (const std::string_view piece : pieces) {
    bytes += int64_t(piece.size());
    if (add(hash_of(piece)) > 1) ++repeated, repeated_bytes += int64_t(piece.size());
  }
  return share(repeated, int64_t(pieces.size())) > most_pieces || share(repeated_bytes, bytes) > most_bytes;
}

Rule TextFilters::against_lines(std::string_view text) {
  const std::vector<std::string_view> lines = pieces_of(text, "\n");
  const int64_t n = int64_t(lines.size());
  if (share(std::count_if(lines.begin(), lines.end(), is_bullet), n) > limits_.max_bullet_lines) return "bullets";
  if (share(std::count_if(lines.begin(), lines.end(), ends_in_ellipsis), n) > limits_.max_ellipsis_lines)
    return "ellipses";
  if (repeats(lines, limits_.max_repeated_lines, limits_.max_repeated_line_bytes)) return "repeated lines";
  if (repeats(pieces_of(text, "\n\n"), limits_.max_repeated_paragraphs, limits_.max_repeated_paragraph_bytes))
    return "repeated paragraphs";
  return nullptr;
}

// Of the units' bytes, those of the most frequent n-gram.
double TextFilters::top_share(int64_t n) {
  clear(ngram_.size());
  int64_t most = 1, bytes = 0;
  for (size_t i = 0; i < ngram_.size(); ++i) {
    const int64_t count = add(ngram_[i]);
    const int64_t length = word_end_[i + size_t(n)] - word_end_[i];
    if (count > most || (count == most && count > 1 && length > bytes)) most = count, bytes = length;
  }
  return most > 1 ? share(most * bytes, word_end_.back()) : 0;
}

// Of the units' bytes, those of n-grams that stood before; one that counts is passed over as a whole.
double TextFilters::repeated_share(int64_t n) {
  clear(ngram_.size());
  int64_t repeated = 0;
  for (size_t i = 0; i < ngram_.size();) {
    const bool before = add(ngram_[i]) > 1;
    if (before) repeated += word_end_[i + size_t(n)] - word_end_[i];
    i += before ? size_t(n) : 1;
  }
  return share(repeated, word_end_.back());
}

// units_per_word: 2 where most units are characters of a script without spaces.
Rule TextFilters::against_ngrams(int64_t units_per_word) {
  constexpr int64_t kTop = 2, kRepeated = 5;  // the smallest n of the two lists
  const int64_t units = int64_t(word_hash_.size());
  const int64_t tops = int64_t(limits_.max_top_ngram.size()), repeats = int64_t(limits_.max_repeated_ngrams.size());
  const int64_t longest = std::max(kTop + tops, kRepeated + repeats) - 1;
  ngram_ = word_hash_;
  for (int64_t k = 2; k <= std::min(units, longest * units_per_word); ++k) {
    ngram_.resize(size_t(units - k + 1));
    for (size_t i = 0; i < ngram_.size(); ++i)
      ngram_[i] = (ngram_[i] * 0x9E3779B97F4A7C15 + word_hash_[i + size_t(k) - 1]) | 1;
    const int64_t n = k / units_per_word;
    if (k % units_per_word != 0 || n < kTop) continue;
    if (n - kTop < tops && top_share(k) > limits_.max_top_ngram[size_t(n - kTop)]) return "frequent n-gram";
    if (n >= kRepeated && n - kRepeated < repeats &&
        repeated_share(k) > limits_.max_repeated_ngrams[size_t(n - kRepeated)])
      return "repeated n-grams";
  }
  return nullptr;
}

Rule TextFilters::rule_against(std::string_view text, Language language) {
  const auto& languages = limits_.languages;
  if (!languages.empty() && std::find(languages.begin(), languages.end(), name_of(language)) == languages.end())
    return "language";
  const Counts counts = count(text);
  if (const Rule rule = against_words(counts)) return rule;
  if (const Rule rule = against_lines(text)) return rule;
  return against_ngrams(2 * counts.unspaced > int64_t(word_hash_.size()) ? 2 : 1);
}

}  // namespace fulgur
