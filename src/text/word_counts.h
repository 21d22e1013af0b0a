// WordCounts: how often each word of a text occurs, in bounded memory. What exceeds it lies on disk as sorted runs, so
// that the counts are exact and depend neither on the number of threads nor on when a run was written.
#pragma once
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/threads.h"

namespace fulgur {

// Words of one thread and their counts, without order. Tables of two threads share no cache line.
class alignas(64) WordTable {
 public:
  struct Entry {
    const char* text;
    uint64_t bytes;
    int64_t count;
    std::string_view word() const { return {text, bytes}; }
  };

  void add(std::string_view word);
  void clear() { *this = WordTable(); }
  size_t memory_bytes() const { return arena_bytes_ + entries_.capacity() * sizeof(Entry) + slots_.size() * 8; }
  std::span<const Entry> entries() const { return entries_; }
  void sort();  // by the words' bytes; to be cleared before more is added

 private:
  const char* kept(std::string_view word);
  void grow();

  std::vector<std::unique_ptr<char[]>> arena_;
  size_t arena_bytes_ = 0, block_left_ = 0;
  char* block_at_ = nullptr;
  std::vector<Entry> entries_;
  // Open addressing: the hash's upper half, then 1 + the entry's number; 0 is free.
  std::vector<uint64_t> slots_ = std::vector<uint64_t>(1 << 12);
};

// Words in the order of their bytes.
struct CountedWords {
  std::string text;  // of all, one behind the other
  std::vector<uint64_t> bytes;
  std::vector<int64_t> counts;
  // Of everything that was counted, and of what is here: distinct words, their occurrences.
  int64_t all_words = 0, all_occurrences = 0, occurrences = 0;
};

class WordCounts {
 public:
  // memory_bytes: of all threads' tables. Runs are files in spill_folder that have no name, so that none is left over.
  WordCounts(int threads, int64_t memory_bytes, std::filesystem::path spill_folder);
  ~WordCounts();

  // The words of each document as our vocabularies split it.
  void add(std::span<const std::string> documents);

  // As many of the most frequent words as fit the memory; where words of one count fit only in part, a part that is
  // spread evenly over them in byte order. The counts' memory is free afterwards, and nothing is left to be taken.
  struct Cost {
    int64_t per_word, per_byte;
  };
  CountedWords take(int64_t memory_bytes, Cost cost);

 private:
  class Run;
  void spill(bool all);
  template <class Body>
  void for_each_word(const Body& body);

  Threads threads_;
  std::vector<WordTable> tables_;  // of each thread
  size_t table_bytes_;
  std::filesystem::path spill_folder_;
  std::vector<std::unique_ptr<Run>> runs_;
};

}  // namespace fulgur
