// PrefixStore: states of texts that were read before, so that a text that begins alike need not be read again. The most
// recently used lie in main memory, the next ones on disk, older ones nowhere; each within its budget of bytes.
#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "generate/session_file.h"

namespace fulgur {

struct PrefixStoreOptions {
  StateShape shape;
  size_t memory_bytes = 0;
  std::filesystem::path folder = {};  // empty: nothing goes to disk. Made where it does not exist
  size_t disk_bytes = 0;
  SessionBinding binding = {};  // of what lies on disk; files of another model are left alone
};

class PrefixStore {
 public:
  // Finds again what an earlier store left in the folder. Throws not_found where the folder cannot be used.
  explicit PrefixStore(PrefixStoreOptions options);

  // The state behind exactly these tokens; replaces an equal one. What exceeds the budgets goes, least recently used
  // first. Throws not_found where the disk refuses.
  void put(std::span<const int32_t> tokens, StateImage image);
  // A copy of the state behind the longest stored beginning of `tokens`. A file that proves to be damaged is removed
  // and counts as none.
  std::optional<StateImage> find(std::span<const int32_t> tokens);

  size_t memory_bytes() const { return memory_bytes_; }
  size_t disk_bytes() const { return disk_bytes_; }
  int64_t damaged_files() const { return damaged_files_; }

 private:
  struct Entry {
    std::vector<int32_t> tokens;
    std::optional<StateImage> image;  // in memory, else in its file
    size_t bytes = 0;
    uint64_t used = 0;
  };
  using Place = std::map<std::string, Entry>::iterator;

  std::filesystem::path file_of(const std::string& key) const;
  void find_again(const std::filesystem::path& file);
  Place least_used(bool in_memory);
  void shrink();
  void forget(Place entry);
  std::optional<StateImage> image_of(Place entry);

  PrefixStoreOptions options_;
  std::map<std::string, Entry> entries_;  // by the digest of their tokens
  size_t memory_bytes_ = 0, disk_bytes_ = 0;
  uint64_t uses_ = 0;
  int64_t damaged_files_ = 0;
};

}  // namespace fulgur
