#include "train/training_memory.h"

#include <algorithm>
#include <cstring>

#include "train/micro_batch.h"

namespace fulgur {
namespace {

// Weights or gradients without bytes.
ModelWeights shapes_of(const ModelConfig& config) {
  ModelWeights w = views_of(config, contiguous(nullptr, DType::f32, {}, {flat_elements(config)}));
  fill_decays(config, w, contiguous(nullptr, DType::f32, {}, {config.layers, config.heads}));
  return w;
}

constexpr size_t kAlign = 256;   // bytes, as arenas align
constexpr size_t kSlack = 4096;  // bytes: the step's own few numbers

// Scratch of a forward over whole documents and the head.
size_t measured_validation(const ModelConfig& config, int64_t rows) {
  Stream stream = Stream::measuring({});
  Arena scratch = Arena::measuring({}), tape = Arena::measuring({});
  Exec exec{stream, scratch, tape, config};
  const ModelWeights weights = shapes_of(config);
  const MicroBatch micro = largest_micro_batch(exec, rows);
  head_nats(exec, weights, forward(exec, weights, micro.batch), micro.targets, scratch.alloc(DType::f64, {1}));
  return scratch.peak_bytes() + kSlack;
}

}  // namespace

ArenaBytes measured_micro_step(const ModelConfig& config, int64_t rows, int64_t laid_out, int64_t window) {
  Stream stream = Stream::measuring({});
  Arena scratch = Arena::measuring({}), tape = Arena::measuring({});
  Exec exec{stream, scratch, tape, config};
  const ModelWeights weights = shapes_of(config);
  ModelWeights grads = shapes_of(config);
  const Tensor loss = scratch.alloc(DType::f64, {1});
  for (int64_t i = 1; i < laid_out; ++i) largest_micro_batch(exec, rows);
  const MicroBatch micro = largest_micro_batch(exec, rows);
  micro_step(exec, weights, grads, micro, 1, {.loss = loss, .window = window, .scale = 1}, loss);
  return {scratch.peak_bytes() + kSlack, tape.peak_bytes() + kSlack};
}

TrainingMemory::TrainingMemory(const ModelConfig& config, const RunConfig& run, int64_t validation_rows) {
  const ArenaBytes arenas =
      measured_micro_step(config, run.micro_rows * run.sequence, run.rows_per_step() / run.micro_rows,
                          run.window ? run.window : run.sequence);
  scratch_bytes = arenas.scratch, tape_bytes = arenas.tape;
  if (validation_rows > 0) scratch_bytes = std::max(scratch_bytes, measured_validation(config, validation_rows));
  scratch_bytes = (scratch_bytes + kAlign - 1) / kAlign * kAlign;  // the tape begins where it ends
  const int64_t elements = flat_elements(config), levels = gradient_levels(run.lanes);
  const size_t flat_bytes = size_t(elements * byte_size(DType::f32));
  const size_t needed = flat_bytes * size_t(3 + levels) + scratch_bytes + tape_bytes, free_bytes = available_memory();
  if (needed > free_bytes)
    fail(ErrorKind::out_of_memory,
         "training needs " + std::to_string(needed) + " bytes (weights " + std::to_string(flat_bytes) + ", gradients " +
             std::to_string(flat_bytes * size_t(levels)) + ", moments " + std::to_string(2 * flat_bytes) +
             ", activations " + std::to_string(scratch_bytes + tape_bytes) + "), " + std::to_string(free_bytes) +
             " are free: lower train.micro_rows or train.sequence");
  const bool saves_meanwhile = run.save_every > 0 && run.save_every < run.steps;
  if (saves_meanwhile && needed + 3 * flat_bytes <= free_bytes) snapshot = Buffer(3 * flat_bytes, Purpose::optimizer);
  weights = Buffer(flat_bytes, Purpose::weights), gradients = Buffer(flat_bytes * size_t(levels), Purpose::optimizer);
  moments = Buffer(2 * flat_bytes, Purpose::optimizer),
  activations = Buffer(scratch_bytes + tape_bytes, Purpose::activations);
  decays = Buffer(size_t(config.layers * config.heads) * 4, Purpose::weights);
  state.weights = views_of(config, weights.tensor(DType::f32, {elements}));
  fill_decays(config, state.weights, decays.tensor(DType::f32, {config.layers, config.heads}));
  for (int64_t level = 0; level < levels; ++level)
    state.grads.push_back(views_of(config, gradients.tensor(DType::f32, {levels, elements}).at(level)));
  const Tensor both = moments.tensor(DType::f32, {2, elements});
  state.first = both.at(0), state.second = both.at(1);
  const auto ranges = not_decayed_ranges(state.weights);
  not_decayed = Buffer(std::max<size_t>(ranges.size(), 1) * 16, Purpose::optimizer);
  state.not_decayed = not_decayed.tensor(DType::i64, {int64_t(ranges.size()), 2});
  int64_t* bound = state.not_decayed.elements<int64_t>();
  for (const auto& [begin, end] : ranges) *bound++ = begin, *bound++ = end;
}

Tensor TrainingMemory::snapshot_tensor() const {
  return snapshot.bytes() == 0 ? Tensor{} : snapshot.tensor(DType::f32, {3, state.weights.flat.count()});
}

}  // namespace fulgur
