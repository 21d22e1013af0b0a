#include "train/train_rows.h"

#include <numeric>

#include "base/grid.h"
#include "train/micro_batch.h"

namespace fulgur {
namespace {

// Rows after which sums over a packed row may begin a new call: at its end, and where it is longer than what experts
// take at a time at equal parts of it, in whole windows. The configuration alone decides.
int64_t row_block(int64_t sequence, int64_t window, int64_t moe_rows) {
  const int64_t unit = std::lcm(kGrid, window);
  if (sequence <= moe_rows || window > moe_rows || sequence % unit != 0) return sequence;
  int64_t parts = (sequence + moe_rows - 1) / moe_rows;
  while (sequence % (parts * unit) != 0) ++parts;
  return sequence / parts;
}

// Form `transformers` is the sum over layers of form `report` with pooled shares (ops/load_balance.h).
Balance balance_of(const Exec& exec, const RunConfig& run, int64_t tokens) {
  const ModelConfig& config = exec.config;
  const int64_t window = run.window ? run.window : run.sequence;
  const bool pooled = run.aux_form == AuxForm::transformers;
  const double experts = double(config.experts);
  const double alpha = pooled ? run.aux * experts * experts / double(config.layers) : run.aux;
  return {.sums = {},
          .window = window,
          .row_block = row_block(run.sequence, window, exec.moe_rows),
          .capacity = expert_capacity(config, window, run.capacity),
          .scale = alpha / double(tokens / window),
          .pooled = pooled,
          .z_scale = run.z / double(tokens)};
}

}  // namespace

StepInput step_input(const Exec& exec, const RunConfig& run, int64_t step) {
  return {.lanes = {},
          .counted_rows = 0,
          .balance = balance_of(exec, run, run.tokens_in(step)),
          .learning_rate = learning_rate(run, step),
          .beta1 = run.beta1,
          .beta2 = run.beta2,
          .eps = run.eps,
          .weight_decay = run.weight_decay,
          .max_norm = run.clip,
          .keep = run.recompute ? Keep::inputs : Keep::everything,
          .health = run.health_every > 0 && step % run.health_every == 0,
          .room = exec.stream.device().is_cuda()
                      ? largest_micro_batch(exec, run.micro_rows * run.sequence, run.sequence)
                      : MicroBatch{}};
}

StepReport train_rows(Exec& exec, TrainingState& state, const RunConfig& run, Rows& rows, const SpikeWatch& watch) {
  const Arena::Scope scope(exec.scratch);
  const int64_t first = run.rows_through(state.step),
                lane_rows = (run.rows_through(state.step + 1) - first) / run.lanes;
  std::vector<std::vector<MicroBatch>> batches(static_cast<size_t>(run.lanes));
  std::vector<Lane> lanes;
  StepInput input = step_input(exec, run, state.step + 1);
  input.bounds = watch.bounds();
  for (size_t lane = 0; lane < batches.size(); ++lane) {
    for (int64_t at = 0; at < lane_rows; at += run.micro_rows) {
      std::vector<PackedRow> packed;
      for (int64_t r = 0; r < run.micro_rows; ++r)
        packed.push_back(rows.row(watch.row_at(first + int64_t(lane) * lane_rows + at + r)));
      if (lane == 0 && at == 0) input.probe = longest_sequence(packed[0].begin, run.sequence);
      for (const PackedRow& row : packed)
        for (const int32_t target : row.targets) input.counted_rows += target >= 0;
      batches[lane].push_back(micro_batch_of(exec, packed));
    }
    lanes.emplace_back(batches[lane]);
  }
  input.lanes = lanes;
  return train_step(exec, state, input);
}

}  // namespace fulgur
