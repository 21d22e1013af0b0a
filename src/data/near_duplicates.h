// NearDuplicates: which documents are nearly the same as an earlier one, by MinHash and banded locality-sensitive
// hashing, out of core. The answer is a function of the documents and the options, not of threads or memory.
//
// A text is its set of shingles: five words in a row, or eight characters where the script puts no spaces between words
// (five Chinese words are about eight characters). Words are runs of letters, marks and digits, ASCII in lower case;
// all else only separates. Two texts are as similar as the Jaccard index of their sets, which the share of equal
// min-hashes estimates.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace fulgur {

class NearDuplicates {
 public:
  struct Options {
    double jaccard = 0.8;  // from here on two documents are duplicates
    int hashes = 128;      // min-hashes of a signature
    uint64_t seed = 0;
    int64_t memory_bytes = 256 << 20;  // for band keys; beside it stand 4 bytes a document
  };

  // work_folder: an existing folder in which files near_duplicates.* are its own, removed at both ends of its life.
  // Throws invalid_input for options out of range.
  NearDuplicates(std::filesystem::path work_folder, Options options, int threads);
  NearDuplicates(const NearDuplicates&) = delete;
  NearDuplicates& operator=(const NearDuplicates&) = delete;
  ~NearDuplicates();

  // [hashes]. Thread-safe. What is no valid UTF-8 only separates.
  static std::vector<uint32_t> signature(std::string_view text, const Options& options);

  // Ascending document ids; spills to the work folder.
  void add(uint64_t document, std::span<const uint32_t> signature);

  // The ids to drop, ascending: all of each cluster but its lowest. Once, after the last add. `progress` hears how many
  // of how many band keys are done, from one thread at a time.
  std::vector<uint64_t> duplicates(const std::function<void(int64_t done, int64_t total)>& progress = {});

 private:
  struct Store;
  std::unique_ptr<Store> store_;
};

}  // namespace fulgur
