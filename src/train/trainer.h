// A training run from its configuration to a loadable model: data, steps, validation, checkpoints, progress.
#pragma once
#include <atomic>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "device/recorder.h"
#include "train/run_config.h"

namespace fulgur {

struct ModelConfig;
struct ModelWeights;

struct TrainStart {
  bool resume = false;                      // go on from the newest checkpoint of run.dir
  const std::atomic<bool>* stop = nullptr;  // true: the step at hand is finished and saved, and train returns
  Recorder* recorder = nullptr;             // of the third step of this call, or the last where there are fewer
  // Seconds that the recorded step takes at best; for the progress line, asked once where a run is going to be long.
  std::function<double()> floor;
  // Continues sample.prompts with weights of the run, one text each; none when the run is stopped meanwhile. Absent:
  // there are no samples.
  std::function<std::vector<std::string>(const ModelConfig&, const ModelWeights&)> sample = {};
};

struct TrainReport {
  int64_t steps = 0;           // of the run so far
  int64_t steps_here = 0;      // those of them that this call took
  bool stopped = false;        // on request: the last step is saved, but there is no final validation and no model
  std::vector<double> losses;  // nats per token, of each step
  double bits_per_byte = std::numeric_limits<double>::quiet_NaN();  // of the validation files; NaN without any
  double tokens_per_second = 0;
  std::string model_dir;       // the trained MODEL
  std::string weights_digest;  // xxh3 of the flat master weights
};

// A run that goes on ends in the very weights of a run that was never interrupted. Throws invalid_input when run.dir
// exists already, or, to resume, when it holds no complete checkpoint, another process trains in it, or what decides
// results has changed; corrupt_file for a damaged checkpoint. Nothing of run.dir is touched then. Throws not_found when
// something cannot be written; the newest complete checkpoint stays. Throws invalid_input when training diverged, and
// after an alarm of alarm.stop, whose step is saved.
TrainReport train(const RunConfig& run, const TrainStart& start = {});

}  // namespace fulgur
