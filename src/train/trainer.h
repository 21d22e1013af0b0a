// A training run from its configuration to a loadable model: data, steps, validation, checkpoints, progress.
#pragma once
#include <string>
#include <vector>

#include "train/run_config.h"

namespace fulgur {

struct TrainReport {
  int64_t steps = 0;
  std::vector<double> losses;  // nats per token, of each step
  double bits_per_byte = 0;    // of the validation files; NaN without any
  double tokens_per_second = 0;
  std::string model_dir;       // the trained MODEL
  std::string weights_digest;  // xxh3 of the flat master weights
};

// Throws invalid_input when run.dir exists already; nothing of it is touched then.
TrainReport train(const RunConfig& run);

}  // namespace fulgur
