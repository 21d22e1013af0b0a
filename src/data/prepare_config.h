// PrepareConfig: what the TOML file of `data prepare` says (docs/formats.md).
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/near_duplicates.h"
#include "data/text_filters.h"

namespace fulgur {

struct PrepareSource {
  std::string name;
  double weight = 1;
  std::vector<std::string> files;  // patterns expanded, those of each sorted
};

struct PrepareConfig {
  std::filesystem::path out;
  bool keep_work =
      false;        // what lies between the stages stays, so that a changed configuration redoes only what it touches
  int threads = 0;  // 0: all cores
  std::string tokenizer;
  uint64_t seed = 0;
  int64_t unit_bytes = 0;    // of input that are worked on, and kept, as a whole
  int64_t shard_tokens = 0;  // most of a shard, unless one unit has more
  std::vector<PrepareSource> sources;
  int64_t max_bytes = 0;  // of a document in its file; a longer one is dropped unread
  FilterLimits limits;
  bool exact = true, near = true;
  NearDuplicates::Options near_options;
  std::vector<std::string> evaluation_files;
  std::string model;               // that gives the scores for labels; empty: no labels
  int64_t score_bytes = 0;         // of each document's begin that are scored
  std::vector<double> thresholds;  // of scores, ascending; label 1 lies below the first
  std::vector<double> keep;        // share of each label's documents, labels from 1
  // Each key with its value, defaults included, without those that decide no byte of the result.
  nlohmann::ordered_json decisive;

  int thread_count() const;
  // The values of all keys that begin so.
  std::string values_of(const std::string& prefix) const;
};

// Throws not_found, invalid_input naming the key and what was expected.
PrepareConfig read_prepare_config(const std::filesystem::path& file, const std::vector<std::string>& settings);

}  // namespace fulgur
