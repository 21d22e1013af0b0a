// One optimizer step: lanes of micro-batches through forward, loss and backward; the lanes' sum; clip and update.
#include "train/train_step.h"

#include <bit>
#include <cmath>
#include <string>

#include "device/profiler_range.h"
#include "device/transfer.h"
#include "ops/adamw.h"
#include "ops/blend.h"
#include "ops/gradient_norm.h"
#include "ops/narrow.h"
#include "train/micro_graphs.h"

namespace fulgur {
namespace {

void add(Exec& exec, Tensor to, Tensor from) {
  const auto as_row = [](Tensor flat) { return flat.split({1, flat.dim(0)}); };
  blend(exec.stream, {.y = as_row(to), .a = as_row(to), .alpha = 1, .b = as_row(from), .beta = 1});
}

// All but the gradients of experts' matrices, which the first micro-batch replaces; gaps between those too.
void clear_for_first(Stream& stream, ModelWeights& grads) {
  const auto at = [&](const Tensor& t) { return (t.data - grads.flat.data) / byte_size(t.dtype); };
  int64_t end = grads.experts_begin;
  clear(stream, grads.flat.rows(0, end));
  const auto pass = [&](const Tensor& experts) {
    if (at(experts) > end) clear(stream, grads.flat.rows(end, at(experts)));
    end = at(experts) + experts.count();
  };
  for (const LayerWeights& layer : grads.layers)
    for (const Weight* w : {&layer.moe.gate_up, &layer.moe.down}) pass(w->values);
  if (end < grads.flat.dim(0)) clear(stream, grads.flat.rows(end, grads.flat.dim(0)));
}

// What micro-batches are summed into beside the gradients, and how.
struct StepSums {
  Tensor loss_scale, loss;
  Balance balance;
  HealthSums* health;
};

void sum_micro_batch(Exec& exec, TrainingState& t, const StepInput& input, const StepSums& sums, ModelWeights& grads,
                     const MicroBatch& micro) {
  const auto run = [&](const MicroBatch& there) {
    if (sums.balance.first) clear_for_first(exec.stream, grads);
    micro_step(exec, t.weights, grads, there, sums.loss_scale, sums.balance, sums.loss, input.keep, sums.health);
  };
  if (!t.graphs || sums.health || exec.stream.recorder()) return run(micro);
  t.graphs->run(exec, micro, input.room, grads.flat, sums.balance, run);
}

// Lane i is summed into the free buffer after those that wait for their neighbours in the tree; then it joins them as
// far as the tree is whole. The number of waiting buffers is the number of ones in the count of lanes done.
void sum_lanes(Exec& exec, TrainingState& t, const StepInput& input, StepSums sums) {
  for (size_t lane = 0; lane < input.lanes.size(); ++lane) {
    size_t level = size_t(std::popcount(lane));
    sums.balance.first = true;
    for (const MicroBatch& micro : input.lanes[lane]) {
      sum_micro_batch(exec, t, input, sums, t.grads[level], micro);
      sums.balance.first = false;
    }
    for (size_t done = lane; done & 1; done >>= 1, --level) add(exec, t.grads[level - 1].flat, t.grads[level].flat);
  }
}

// Whether forward reads a copy of the master rather than the master itself.
bool is_rounded(const TrainingState& t) { return t.weights.flat.dtype != t.master.dtype; }

// The batch as the routers are to treat it. On the tape, where a rerun of the forward finds the same.
Batch routed(Exec& exec, Batch batch, const Balance& balance) {
  batch.window = balance.window, batch.capacity = balance.capacity;
  if (batch.window > 0)
    batch.choices = exec.tape.alloc(DType::i32, {exec.config.layers, batch.rows() / batch.window, exec.config.experts});
  return batch;
}

bool is_finite(const StepReport& report) { return std::isfinite(report.loss) && std::isfinite(report.gradient_norm); }

bool is_within(const StepReport& report, const std::optional<StepBounds>& bounds) {
  return !bounds || (report.loss <= bounds->loss && report.gradient_norm <= bounds->gradient_norm);
}

}  // namespace

void round_master(Stream& stream, TrainingState& t) {
  if (is_rounded(t)) narrow(stream, {.y = t.weights.flat, .x = t.master});
  stream.synchronize();
}

int64_t gradient_levels(int64_t lanes) { return std::bit_width(uint64_t(lanes)); }

void micro_step(Exec& exec, const ModelWeights& weights, ModelWeights& grads, const MicroBatch& micro,
                Tensor loss_scale, const Balance& balance, Tensor loss, Keep keep, HealthSums* health) {
  const Arena::Scope tape(exec.tape), scratch(exec.scratch);
  const Batch batch = routed(exec, micro.batch, balance);
  Saved saved{.keep = keep, .layers = {}, .last = {}, .final_inverse_rms = {}};
  const Tensor hidden = forward(exec, weights, batch, &saved);
  if (health) health->add_forward(exec, weights, saved);
  const Targets targets{micro.targets, loss_scale, health ? health->logits() : Tensor{}};
  head_loss(exec, weights, grads, hidden, targets, loss);
  const Tensor d_hidden = hidden;  // head_loss left the gradient there
  backward(exec, weights, grads, batch, saved, balance, d_hidden);
}

namespace {

int64_t rows_of(const StepInput& input) {
  int64_t rows = 0;
  for (const Lane lane : input.lanes)
    for (const MicroBatch& micro : lane) rows += micro.batch.rows();
  return rows;
}

// Nothing where the loss or the gradient norm is not finite, no bounds judge it and health was not measured, which says
// where.
std::optional<StepReport> finite_step(Exec& exec, TrainingState& t, const StepInput& input) {
  const Arena::Scope step(exec.scratch);
  const int64_t layers = exec.config.layers, columns = RouterSums::columns(exec.config.experts);
  // What the host reads of a step, at once: its loss, the norm, the routers' sums.
  const Tensor figures = exec.scratch.alloc(DType::f64, {2 + layers * columns});
  const Tensor loss = figures.rows(0, 1), norm = figures.rows(1, 2);
  Balance balance = input.balance;
  balance.sums = figures.rows(2, figures.dim(0)).split({layers, columns});
  clear(exec.stream, figures);
  std::optional<HealthSums> health;
  if (input.health) health.emplace(exec, input.probe);
  const Tensor loss_scale = upload(exec.stream, exec.scratch, std::vector<double>{1.0 / double(input.counted_rows)});
  sum_lanes(exec, t, input, {loss_scale, loss, balance, health ? &*health : nullptr});
  const Tensor gradient = t.grads.front().flat;
  gradient_norm(exec.stream, {.norm = norm, .gradient = gradient});
  if (health) health->add_gradients(exec, t.grads.front());

  const std::vector<double> read = download<double>(exec.stream, figures);
  StepReport report{.loss = read[0],
                    .gradient_norm = read[1],
                    .router = router_report({read.begin() + 2, read.end()}, exec.config, balance.window)};
  if (health)
    report.health = health_of(download<double>(exec.stream, health->all()), exec.config, input.probe, rows_of(input));
  if (!exec.stream.measuring()) {
    if (!is_finite(report) && !input.bounds) {
      if (!health) return std::nullopt;
      const std::string parameter = first_not_finite(exec, t.weights);
      throw Diverged(t.step + 1, report, parameter.empty() ? report.health->not_finite : "parameter " + parameter);
    }
    report.taken = is_finite(report) && is_within(report, input.bounds);
  }
  if (!report.taken) return report;
  adamw(exec.stream, {.weights = is_rounded(t) ? t.weights.flat : Tensor{},
                      .master = t.master,
                      .first = t.first,
                      .second = t.second,
                      .gradient = gradient,
                      .gradient_norm = norm,
                      .not_decayed = t.not_decayed,
                      .step = ++t.step,
                      .learning_rate = input.learning_rate,
                      .beta1 = input.beta1,
                      .beta2 = input.beta2,
                      .eps = input.eps,
                      .weight_decay = input.weight_decay,
                      .max_norm = input.max_norm});
  return report;
}

}  // namespace

Diverged::Diverged(int64_t step, const StepReport& report, std::string where)
    : Error(ErrorKind::invalid_input, "step " + std::to_string(step) + ": loss " + std::to_string(report.loss) +
                                          ", gradient norm " + std::to_string(report.gradient_norm) +
                                          ": training diverged, first in " + where + "; try a lower train.lr"),
      where_(std::move(where)) {}

StepReport train_step(Exec& exec, TrainingState& t, const StepInput& input) {
  const ProfilerRange phase("training step", t.step + 1);
  if (const auto report = finite_step(exec, t, input)) return *report;
  StepInput watched = input;
  watched.health = true;
  finite_step(exec, t, watched);
  fail(ErrorKind::device, "step " + std::to_string(t.step) +
                              ": computed twice, its loss was finite once: check the memory of this machine");
}

}  // namespace fulgur
