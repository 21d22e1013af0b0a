// The rows of a step: which of the packed rows it takes, in lanes and micro-batches, with its learning rate.
#pragma once
#include "data/packed_rows.h"
#include "train/run_config.h"
#include "train/spike_watch.h"
#include "train/train_step.h"

namespace fulgur {

// What the configuration says of a step, counted from 1: all but its lanes and the rows that they count. On a GPU with
// room for a micro-batch, in exec.scratch.
StepInput step_input(const Exec& exec, const RunConfig& run, int64_t step);

// Step state.step + 1 of the run. exec.scratch holds all its micro-batches at once. watch: what rows are left out, and
// what the step is taken up to.
StepReport train_rows(Exec& exec, TrainingState& state, const RunConfig& run, Rows& rows, const SpikeWatch& watch = {});

}  // namespace fulgur
