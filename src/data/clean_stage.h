// The first stage of preparing data: every document is read, repaired and judged by itself; what stays lies in units in
// the work folder.
#pragma once
#include <string>
#include <vector>

#include "data/drop_counts.h"
#include "data/prepare_config.h"
#include "data/token_index.h"
#include "data/work_units.h"

namespace fulgur {

struct CleanedUnits {
  struct Unit {
    int64_t source, documents_in, bytes_in, documents, bytes;
  };
  std::vector<Unit> units;
  std::vector<TokenInput> inputs;
  DropCounts dropped;
  std::string key;  // of all units
  double seconds = 0, mb_per_s = 0;
};

inline constexpr const char* kCleanStage = "clean";

// Throws what reading the inputs throws.
CleanedUnits clean_inputs(const PrepareConfig& config, const WorkFolder& work, Threads& threads);

}  // namespace fulgur
