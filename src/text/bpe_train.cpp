// Pair counts are kept up to date word by word; a heap proposes the next pair. Counts of a known pair only fall, so a
// proposal whose count is out of date is put back with the true one.
#include "text/bpe_train.h"

#include <algorithm>
#include <queue>
#include <tuple>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr int64_t kBytes = 256, kMostTokens = int64_t(1) << 21;
// What merging takes: of a word its record and its share of the pairs, of a byte its symbol and places in lists of
// words; measured on 200 MB of English and Chinese.
constexpr WordCounts::Cost kMergingCost{.per_word = 80, .per_byte = 28};

struct Word {
  size_t begin, length;  // of its symbols
  int64_t count;
};

struct Pair {
  int32_t left, right;
  int64_t count = 0;
  std::vector<uint32_t> words;  // that had it at some time
};

struct Proposal {
  int64_t count;
  int32_t left, right;
  uint32_t pair;
  // The heap's top is the greatest.
  bool operator<(const Proposal& other) const {
    return std::tuple(count, other.left, other.right) < std::tuple(other.count, left, right);
  }
};

// The number of each pair, by open addressing.
class PairNumbers {
 public:
  // The place of the pair's number, kNone where it has none yet. It stays valid until the next call.
  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t& operator()(int32_t left, int32_t right) {
    if (2 * used_ >= slots_.size()) grow();
    Slot& slot = slot_of(uint64_t(left) << 32 | uint32_t(right));
    used_ += slot.number == kNone;
    return slot.number;
  }

 private:
  struct Slot {
    uint64_t key = UINT64_MAX;
    uint32_t number = kNone;
  };
  Slot& slot_of(uint64_t key) {
    const size_t mask = slots_.size() - 1;
    size_t at = (key * 0x9E3779B97F4A7C15) >> 32 & mask;
    while (slots_[at].key != key && slots_[at].number != kNone) at = (at + 1) & mask;
    slots_[at].key = key;
    return slots_[at];
  }
  void grow() {
    const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(2 * slots_.size()));
    for (const Slot& slot : old)
      if (slot.number != kNone) slot_of(slot.key).number = slot.number;
  }
  std::vector<Slot> slots_ = std::vector<Slot>(64);
  size_t used_ = 0;
};

class PairMerging {
 public:
  explicit PairMerging(CountedWords words);

  // The most frequent pair; nullptr if no pair is left. It stays valid until the next call of merge.
  const Pair* most_frequent();
  // Makes the pair last returned one symbol everywhere.
  void merge(int32_t result);

 private:
  void count_pair(int32_t left, int32_t right, int64_t count, uint32_t word);
  void merge_in_word(uint32_t word, int32_t left, int32_t right, int32_t result);

  std::vector<Word> words_;
  std::vector<int32_t> symbols_;
  std::vector<Pair> pairs_;
  PairNumbers pair_numbers_;
  std::vector<uint32_t> new_pairs_;
  std::priority_queue<Proposal> proposals_;
  uint32_t chosen_ = 0;
};

PairMerging::PairMerging(CountedWords words) {
  symbols_.reserve(words.text.size()), words_.reserve(words.counts.size());
  for (const char byte : words.text) symbols_.push_back(uint8_t(byte));
  words.text = std::string();
  size_t begin = 0;
  for (size_t w = 0; w < words.counts.size(); begin += words.bytes[w], ++w) {
    words_.push_back({begin, words.bytes[w], words.counts[w]});
    const int32_t* symbols = symbols_.data() + begin;
    for (size_t i = 1; i < words.bytes[w]; ++i) count_pair(symbols[i - 1], symbols[i], words.counts[w], uint32_t(w));
  }
  for (const uint32_t pair : new_pairs_) {
    proposals_.push({pairs_[pair].count, pairs_[pair].left, pairs_[pair].right, pair});
  }
}

void PairMerging::count_pair(int32_t left, int32_t right, int64_t count, uint32_t word) {
  uint32_t& number = pair_numbers_(left, right);
  if (number == PairNumbers::kNone) {
    number = uint32_t(pairs_.size());
    pairs_.push_back({.left = left, .right = right, .words = {}});
    new_pairs_.push_back(number);
  }
  Pair& pair = pairs_[number];
  pair.count += count;
  if (count > 0 && (pair.words.empty() || pair.words.back() != word)) pair.words.push_back(word);
}

const Pair* PairMerging::most_frequent() {
  while (!proposals_.empty()) {
    Proposal top = proposals_.top();
    proposals_.pop();
    chosen_ = top.pair;
    const Pair& pair = pairs_[top.pair];
    if (pair.count == top.count) return &pair;
    top.count = pair.count;
    if (top.count > 0) proposals_.push(top);
  }
  return nullptr;
}

void PairMerging::merge(int32_t result) {
  new_pairs_.clear();
  const Pair pair{pairs_[chosen_].left, pairs_[chosen_].right, 0, std::move(pairs_[chosen_].words)};
  for (const uint32_t word : pair.words) merge_in_word(word, pair.left, pair.right, result);
  pairs_[chosen_].words = {};
  for (const uint32_t made : new_pairs_) {
    proposals_.push({pairs_[made].count, pairs_[made].left, pairs_[made].right, made});
  }
}

void PairMerging::merge_in_word(uint32_t index, int32_t left, int32_t right, int32_t result) {
  Word& word = words_[index];
  int32_t* symbols = symbols_.data() + word.begin;
  const auto is_match = [&](size_t i) { return i + 1 < word.length && symbols[i] == left && symbols[i + 1] == right; };
  // Every pair that has a symbol of a match is gone; matches are taken from the left and do not overlap.
  size_t merged = 0, free_from = 0;  // symbols before free_from belong to a match
  for (size_t i = 0; i < word.length; ++i) {
    const bool match = i >= free_from && is_match(i);
    const bool touched = i < free_from || match;
    const bool next_matches = !match && i + 1 >= free_from && is_match(i + 1);
    if (i + 1 < word.length && (touched || next_matches)) count_pair(symbols[i], symbols[i + 1], -word.count, index);
    if (match) free_from = i + 2, ++merged;
  }
  if (merged == 0) return;
  size_t length = 0;
  for (size_t i = 0; i < word.length; ++length) {
    const bool match = is_match(i);
    symbols[length] = match ? result : symbols[i];
    i += match ? 2 : 1;
  }
  word.length = length;
  for (size_t i = 1; i < length; ++i) {
    if (symbols[i - 1] == result || symbols[i] == result) count_pair(symbols[i - 1], symbols[i], word.count, index);
  }
}

std::filesystem::path folder_of(const std::filesystem::path& spill_folder) {
  if (!spill_folder.empty()) return spill_folder;
  std::error_code error;
  std::filesystem::path folder = std::filesystem::temp_directory_path(error);
  if (error) fail(ErrorKind::not_found, "TMPDIR: expected a folder for temporary files: " + error.message());
  return folder;
}

void add_special_tokens(Vocabulary& vocabulary) {
  for (const std::string_view special : kOurSpecialTokens) {
    vocabulary.added.push_back({.content = std::string(special), .id = int32_t(vocabulary.tokens.size())});
    vocabulary.tokens.emplace_back(special);
  }
}

}  // namespace

BpeTrainer::BpeTrainer(int64_t vocab_size, const BpeTrainerOptions& options)
    : merges_(vocab_size - kBytes - int64_t(kOurSpecialTokens.size())),
      memory_bytes_(options.memory_bytes),
      counts_(options.threads, options.memory_bytes, folder_of(options.spill_folder)) {
  if (merges_ >= 0 && vocab_size <= kMostTokens) return;
  fail(ErrorKind::invalid_input, "vocabulary of " + std::to_string(vocab_size) + " tokens, expected " +
                                     std::to_string(vocab_size - merges_) + ".." + std::to_string(kMostTokens));
}

BpeTrainer::Words BpeTrainer::close() {
  words_ = counts_.take(memory_bytes_, kMergingCost);
  is_closed_ = true;
  return {int64_t(words_.counts.size()), words_.all_words, words_.occurrences, words_.all_occurrences};
}

Vocabulary BpeTrainer::train(const Progress& progress) {
  if (!is_closed_) close();
  PairMerging merging(std::move(words_));
  Vocabulary vocabulary;
  for (int byte = 0; byte < kBytes; ++byte) vocabulary.tokens.push_back(std::string(1, char(byte)));
  std::unordered_set<std::string> known(vocabulary.tokens.begin(), vocabulary.tokens.end());
  progress(0, merges_);
  while (int64_t(vocabulary.merges.size()) < merges_) {
    const Pair* pair = merging.most_frequent();
    if (!pair) {
      const int64_t possible = int64_t(vocabulary.tokens.size() + kOurSpecialTokens.size());
      fail(ErrorKind::invalid_input, "the text has too few words for a vocabulary of " +
                                         std::to_string(possible + merges_ - int64_t(vocabulary.merges.size())) +
                                         " tokens, expected at most " + std::to_string(possible));
    }
    std::string token = vocabulary.tokens[size_t(pair->left)] + vocabulary.tokens[size_t(pair->right)];
    // The same bytes by another way: a token has one way only, so this pair stays two tokens.
    if (!known.insert(token).second) continue;
    const auto id = int32_t(vocabulary.tokens.size());
    vocabulary.merges.push_back({pair->left, pair->right, id});
    vocabulary.tokens.push_back(std::move(token));
    merging.merge(id);
    progress(int64_t(vocabulary.merges.size()), merges_);
  }
  add_special_tokens(vocabulary);
  return vocabulary;
}

}  // namespace fulgur
