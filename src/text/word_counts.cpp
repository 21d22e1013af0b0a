#include "text/word_counts.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <queue>

#include "base/error.h"
#include "base/for_each_or_throw.h"
#include "text/vocabulary.h"

namespace fulgur {
namespace {

constexpr size_t kBlock = 1 << 20;

}  // namespace

const char* WordTable::kept(std::string_view word) {
  if (word.size() > block_left_) {
    block_left_ = std::max(kBlock, word.size());
    arena_.emplace_back(new char[block_left_]);
    arena_bytes_ += block_left_, block_at_ = arena_.back().get();
  }
  char* text = block_at_;
  std::memcpy(text, word.data(), word.size());
  block_at_ += word.size(), block_left_ -= word.size();
  return text;
}

void WordTable::add(std::string_view word) {
  const uint64_t hash = std::hash<std::string_view>()(word), tag = hash >> 32 << 32;
  const size_t mask = slots_.size() - 1;
  for (size_t slot = hash & mask;; slot = (slot + 1) & mask) {
    if (slots_[slot] == 0) {
      slots_[slot] = tag | (entries_.size() + 1);
      entries_.push_back({kept(word), word.size(), 1});
      if (entries_.size() * 2 > slots_.size()) grow();
      return;
    }
    if ((slots_[slot] ^ tag) >> 32 != 0) continue;
    Entry& entry = entries_[uint32_t(slots_[slot]) - 1];
    if (entry.word() != word) continue;
    ++entry.count;
    return;
  }
}

void WordTable::grow() {
  slots_.assign(slots_.size() * 2, 0);
  const size_t mask = slots_.size() - 1;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const uint64_t hash = std::hash<std::string_view>()(entries_[i].word());
    size_t slot = hash & mask;
    while (slots_[slot] != 0) slot = (slot + 1) & mask;
    slots_[slot] = hash >> 32 << 32 | (i + 1);
  }
}

void WordTable::sort() {
  slots_ = std::vector<uint64_t>();
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.word() < b.word(); });
}

// A file of words in their order: of each its number of bytes (u64), its count (i64), its bytes.
class WordCounts::Run {
 public:
  explicit Run(const std::filesystem::path& folder) {
    std::string name = (folder / "fulgur-words-XXXXXX").string();
    const int descriptor = mkstemp(name.data());
    if (descriptor < 0) fail(ErrorKind::not_found, name + ": cannot be made: " + std::strerror(errno));
    unlink(name.c_str());
    file_ = fdopen(descriptor, "w+b");
    expect(file_ != nullptr, "a descriptor just opened becomes a stream");
    name_ = name;
  }
  ~Run() { std::fclose(file_); }

  void write(std::span<const WordTable::Entry> entries) {
    for (const WordTable::Entry& entry : entries) {
      std::fwrite(&entry.bytes, sizeof entry.bytes, 1, file_);
      std::fwrite(&entry.count, sizeof entry.count, 1, file_);
      std::fwrite(entry.text, 1, entry.bytes, file_);
    }
    if (std::fflush(file_) != 0 || std::ferror(file_))
      fail(ErrorKind::not_found, name_ + ": words that memory has no room for cannot be written: " +
                                     std::strerror(errno) + "; give TMPDIR with more room");
  }

  void rewind() { std::rewind(file_); }
  bool next() {
    uint64_t bytes = 0;
    if (std::fread(&bytes, sizeof bytes, 1, file_) != 1) return require(!std::ferror(file_)), false;
    word.resize(bytes);
    require(std::fread(&count, sizeof count, 1, file_) == 1 && std::fread(word.data(), 1, bytes, file_) == bytes);
    return true;
  }

  std::string word;
  int64_t count = 0;

 private:
  void require(bool is_read) const {
    if (!is_read) fail(ErrorKind::not_found, name_ + ": cannot be read back: " + std::strerror(errno));
  }
  std::FILE* file_;
  std::string name_;
};

WordCounts::WordCounts(int threads, int64_t memory_bytes, std::filesystem::path spill_folder)
    : threads_(threads),
      tables_(size_t(threads)),
      table_bytes_(size_t(memory_bytes / threads)),
      spill_folder_(std::move(spill_folder)) {}

WordCounts::~WordCounts() = default;

void WordCounts::add(std::span<const std::string> documents) {
  std::atomic<size_t> next = 0;
  for_each_or_throw(threads_, int64_t(tables_.size()), [&](int64_t table) {
    const Vocabulary ours;
    std::string storage;
    for (size_t i = next++; i < documents.size(); i = next++) {
      Splitter words(ours.pre_tokenizer, cleaned(documents[i], ours.normalisation, storage));
      for (auto word = words.next(); !word.empty(); word = words.next()) tables_[size_t(table)].add(word);
    }
  });
  spill(false);
}

// Tables beyond their share of the memory, or all.
void WordCounts::spill(bool all) {
  std::vector<WordTable*> full;
  for (WordTable& table : tables_)
    if (all || table.memory_bytes() > table_bytes_) full.push_back(&table);
  threads_.for_each(int64_t(full.size()), [&](int64_t i) { full[size_t(i)]->sort(); });
  for (WordTable* table : full) {
    runs_.push_back(std::make_unique<Run>(spill_folder_));
    runs_.back()->write(table->entries());
    table->clear();
  }
}

// body(word, its count in all runs), in the order of the words' bytes.
template <class Body>
void WordCounts::for_each_word(const Body& body) {
  const auto later = [](const Run* a, const Run* b) { return a->word > b->word; };
  std::priority_queue<Run*, std::vector<Run*>, decltype(later)> first(later);
  for (const auto& run : runs_) {
    run->rewind();
    if (run->next()) first.push(run.get());
  }
  std::string word;
  while (!first.empty()) {
    word = first.top()->word;
    int64_t count = 0;
    while (!first.empty() && first.top()->word == word) {
      Run* run = first.top();
      first.pop();
      count += run->count;
      if (run->next()) first.push(run);
    }
    body(std::string_view(word), count);
  }
}

CountedWords WordCounts::take(int64_t memory_bytes, Cost cost) {
  spill(true);
  CountedWords words;
  struct Total {
    int64_t words = 0, bytes = 0;
  };
  std::map<int64_t, Total, std::greater<>> totals;  // of all words of a count
  for_each_word([&](std::string_view word, int64_t count) {
    ++totals[count].words, totals[count].bytes += int64_t(word.size());
    ++words.all_words, words.all_occurrences += count;
  });
  int64_t left = memory_bytes, rarest = 0, rarest_cost = 0;  // words of higher counts than `rarest` fit as a whole
  for (const auto& [count, total] : totals) {
    const int64_t needed = cost.per_word * total.words + cost.per_byte * total.bytes;
    if (needed > left) {
      rarest = count, rarest_cost = needed;
      break;
    }
    left -= needed;
  }
  int64_t seen = 0, taken = 0;  // cost of words that occur `rarest` times
  for_each_word([&](std::string_view word, int64_t count) {
    if (count < rarest) return;
    if (count == rarest) {
      const int64_t needed = cost.per_word + cost.per_byte * int64_t(word.size());
      seen += needed;
      if (double(taken + needed) * double(rarest_cost) > double(seen) * double(left)) return;
      taken += needed;
    }
    words.text += word, words.bytes.push_back(word.size()), words.counts.push_back(count);
    words.occurrences += count;
  });
  runs_.clear();
  return words;
}

}  // namespace fulgur
