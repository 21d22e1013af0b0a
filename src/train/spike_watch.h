// SpikeWatch: what a run remembers of its steps to judge the next one, and the rows that it leaves out. All of it is a
// function of the steps taken, so a run that goes on from a checkpoint judges as one that was never interrupted.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "train/run_config.h"
#include "train/train_step.h"

namespace fulgur {

// Rows [begin, end) of the run that are not trained on, for the loss or gradient norm of a step.
struct SkippedRows {
  int64_t begin, end;
  int64_t spikes = 1;  // that the range is made of; of the last of them:
  int64_t step = 0;
  double loss = 0, gradient_norm = 0;  // may be not finite
};

struct SpikeState {
  std::vector<SkippedRows> skipped;            // ascending, apart
  std::vector<double> losses, gradient_norms;  // of the last steps taken, at most `window`
};

class SpikeWatch {
 public:
  SpikeWatch() = default;  // judges nothing, leaves nothing out
  explicit SpikeWatch(const SpikeRule& rule, SpikeState state = {}) : rule_(rule), state_(std::move(state)) {}

  // Of the next step. Nothing without a rule; infinite before `window` steps are taken.
  std::optional<StepBounds> bounds() const;
  void note(const StepReport& taken);

  // Leaves rows out. Throws invalid_input where that makes more spikes than the rule allows.
  void skip(const SkippedRows& rows);
  // Back to what was remembered at an earlier step; what is left out stays so.
  void go_back(const SpikeState& earlier);

  // The row of the run that the n-th row trained on is, from 0.
  int64_t row_at(int64_t n) const;
  // The range that ends right before that row; null where there is none.
  const SkippedRows* skipped_before(int64_t n) const;
  const SpikeState& state() const { return state_; }

 private:
  SpikeRule rule_;
  SpikeState state_;
};

}  // namespace fulgur
