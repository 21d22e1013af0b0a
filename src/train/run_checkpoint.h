// A run's checkpoints, checkpoints/step-N/ (docs/formats.md): master weights, both moments, and state.json with what
// the run has consumed and the digests of what it depends on. A checkpoint is complete when its folder has its name.
#pragma once
#include <filesystem>
#include <string>

#include "train/run_config.h"
#include "train/train_step.h"

namespace fulgur {

struct RunDigests {
  std::string configuration, tokenizer, data;
};

void save_run_checkpoint(const std::filesystem::path& run_dir, const RunConfig& run, const TrainingState& state,
                         const RunDigests& digests);

}  // namespace fulgur
