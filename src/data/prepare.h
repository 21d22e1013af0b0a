// Prepare: raw text to prepared data (docs/formats.md), in stages whose results lie in config.out/work until all is
// done. The same bytes for any number of threads, and after any interruption.
#pragma once
#include <string>

#include "data/prepare_config.h"
#include "data/scorer.h"

namespace fulgur {

inline constexpr const char* kReportFile = "report.json";
inline constexpr const char* kPrepareConfiguration = "prepare.json";  // every key that decides bytes

enum class Prepared : bool { now, before };  // before: the folder was complete already

// scorer: null where the configuration names no quality.model. Leaves index.json, the shards, report.json and
// prepare.json in config.out. Throws invalid_input where the folder holds something else, or is complete under
// another configuration or of other inputs (named); and what reading inputs and tokenizer throws.
Prepared prepare(const PrepareConfig& config, Scorer* scorer);

}  // namespace fulgur
