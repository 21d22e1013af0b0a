// The course of a run: batches that grow, mixtures that change by stage, what counts as a spike. Read from the
// configuration's values as JSON; null where a key is absent.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "data/mixture.h"
#include "train/run_config.h"

namespace fulgur {

// Each throws invalid_input naming the key, its value and what was expected. A stage's and a batch's beginnings are
// found by run.sequence, tokens_per_step and the batches before.
void read_batch_ramp(RunConfig& run, const nlohmann::ordered_json& ramp);
void read_mixture(RunConfig& run, const nlohmann::ordered_json& weights, const nlohmann::ordered_json& stages);
void read_spike_rule(RunConfig& run, const nlohmann::ordered_json& rule);

// Throws invalid_input for sizes that are missing or do not fit each other, naming the key.
void judge_sizes(const RunConfig& run);

// What the run has after its warm-up: steps, or tokens where those are what the decay counts.
int64_t after_warm_up(const RunConfig& run);

// The stages over these sources. Throws invalid_input for a source that is not named, or a name that is none's.
std::vector<MixtureStage> mixture_stages(const RunConfig& run, const std::vector<TrainingSource>& sources);

// The rows of the run, by their global sample index. The corpus outlives them.
MixedRows rows_of(const RunConfig& run, const RunCorpus& corpus);

}  // namespace fulgur
