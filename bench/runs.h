// The end-to-end runs of `fulgur bench prefill|decode|train`: a model with random weights and random tokens, through
// the code that generates and trains. Times are of steps that nobody records; more steps are recorded for the table.
#pragma once
#include <string>
#include <vector>

#include "device/recorder.h"
#include "model/config.h"
#include "train/run_config.h"

namespace fulgur::bench {

struct Figure {
  std::string name, unit;
  double value = 0;
  bool more_is_better = true;
};

struct Measured {
  std::vector<Figure> figures;
  double seconds = 0;  // of the step that the floor is of: best, or the median of many
  Recorder recorder;   // of one such step
  size_t peak_activation_bytes = 0;
  struct Memory {
    std::string part;
    size_t planned, used;  // bytes
  };
  std::vector<Memory> memory;  // of training, by what it serves
};

struct InferenceSetup {
  ModelConfig shape;
  DType type;
  int threads;
  DeviceId device = {};
  bool in_order = true;  // Exec::in_order
};

// One prompt of `tokens` tokens to its first token, `chunk` at a time, or 0: as generate. Best of two after one.
Measured run_prefill(const InferenceSetup& setup, int64_t tokens, int64_t chunk = 0);

// `batch` sequences with `context` tokens behind them, one token each a step of the scheduler. Median of `steps` steps.
Measured run_decode(const InferenceSetup& setup, int64_t batch, int64_t context, int64_t steps);

// Three kinds of steps by turns: `batch` sequences with `context` tokens behind them write a token each; a prompt of
// `tokens` tokens is read to its first token; both at once. Medians of `steps` of each, after one. The table is of both
// at once.
Measured run_mixed(const InferenceSetup& setup, int64_t batch, int64_t context, int64_t tokens, int64_t steps);

// Optimizer steps over rows that are one document each, after one line with the memory plan on standard error. Best of
// `steps` after one, on a GPU after three, which ready its graphs, and with a line about these. Throws device where a
// part of the memory takes other bytes than were planned. Where run.health_every is above 0, as many steps that measure
// health come between them: a figure of its own says what that costs.
Measured run_train(const RunConfig& run, int64_t steps);

}  // namespace fulgur::bench
