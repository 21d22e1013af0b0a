// What a run's weights make of its prompts while it trains.
#pragma once
#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "model/weights.h"
#include "train/run_config.h"

namespace fulgur {

// For TrainStart::sample: continues sample.prompts in an engine of its own, whose memory is given back afterwards. The
// same weights give the same texts. run and stop outlive it; no texts once `stop` is true.
std::function<std::vector<std::string>(const ModelConfig&, const ModelWeights&)> training_samples(
    const RunConfig& run, const std::atomic<bool>& stop);

}  // namespace fulgur
