// NearDuplicates: MinHash and banded locality-sensitive hashing, out of core.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace fulgur {

class NearDuplicates {
 public:
  struct Options {
    double jaccard = 0.8;
    int hashes = 128;
    uint64_t seed = 0;
    int64_t memory_bytes = 256 << 20;
  };

  NearDuplicates(std::filesystem::path work_folder, Options options, int threads);

  // Of the text's word or character shingles. Thread-safe.
  static std::vector<uint32_t> signature(std::string_view text, const Options& options);

  // Ascending document ids; spills to the work folder.
  void add(uint64_t document, std::span<const uint32_t> signature);
  // Ids to drop: all of each cluster but its lowest id; ascending.
  std::vector<uint64_t> duplicates();
};

}  // namespace fulgur
