// A run's checkpoints, checkpoints/step-N/ (docs/formats.md): master weights, both moments, and state.json with what
// the run has consumed, the digests of the files and what the run depends on. A checkpoint is complete when its folder
// has its name.
#pragma once
#include <filesystem>
#include <limits>
#include <map>
#include <string>

#include "train/run_config.h"
#include "train/spike_watch.h"
#include "train/train_step.h"

namespace fulgur {

// What a run's results depend on. Two runs may be joined only where all of it is the same.
struct RunIdentity {
  std::string keys;                         // JSON object: RunConfig::decisive, and config.json's keys as model.KEY
  std::string tokenizer, data, validation;  // digests of what the files hold
};

// Flat f32 tensors with the offsets of ModelWeights::flat: what a step leaves to the next.
struct TrainedTensors {
  Tensor master, first, second;
};

// Writes checkpoints/step-`step`, then removes complete ones beyond the newest run.keep. `table`: the parameters' names
// and offsets. Throws not_found with the file and the cause; what was complete before stays.
void save_run_checkpoint(const std::filesystem::path& run_dir, const RunConfig& run, const RunIdentity& identity,
                         const ModelWeights& table, const TrainedTensors& tensors, int64_t step,
                         const SpikeState& spikes = {});

// Step of the newest complete checkpoint, of those up to `last`; -1 without any.
int64_t newest_checkpoint(const std::filesystem::path& run_dir, int64_t last = std::numeric_limits<int64_t>::max());

// A complete checkpoint whose state.json has been read and judged.
struct RunCheckpoint {
  std::filesystem::path folder;
  int64_t step = 0;
  RunIdentity identity;
  std::map<std::string, std::string> digests;  // file name to xxh3
  SpikeState spikes;
};

// The newest complete one, of those up to `last`. Throws invalid_input without any; corrupt_file for a damaged
// state.json, naming the newest older checkpoint that is whole.
RunCheckpoint open_run_checkpoint(const std::filesystem::path& run_dir,
                                  int64_t last = std::numeric_limits<int64_t>::max());

// Throws invalid_input with every key that differs and both its values.
void require_same(const RunCheckpoint& checkpoint, const RunIdentity& identity);

// Fills the tensors after every file's digest has been verified. Throws corrupt_file as open_run_checkpoint does.
void load_run_checkpoint(const RunCheckpoint& checkpoint, const ModelWeights& table, const TrainedTensors& tensors);

// Removes what interrupted saves have left in checkpoints/.
void remove_unfinished_checkpoints(const std::filesystem::path& run_dir);

// Removes the complete ones of later steps, the newest first.
void remove_checkpoints_after(const std::filesystem::path& run_dir, int64_t step);

}  // namespace fulgur
