// The memory of a run: weights, gradients, moments, and the arenas of one micro-batch, sized by a measuring run.
#pragma once
#include "device/buffer.h"
#include "train/run_config.h"
#include "train/train_step.h"

namespace fulgur {

// Bytes of the two arenas that an Exec needs.
struct ArenaBytes {
  size_t scratch, tape;
};
// Of one micro-batch of `rows` rows with `laid_out` micro-batches in scratch at once; f32 on the CPU.
ArenaBytes measured_micro_step(const ModelConfig& config, int64_t rows, int64_t laid_out, int64_t window);

struct TrainingMemory {
  Buffer weights, decays, gradients, moments, not_decayed, activations, snapshot;
  TrainingState state;
  size_t scratch_bytes = 0, tape_bytes = 0;

  // validation_rows: of the largest validation batch, 0 without any. Throws out_of_memory with the bytes asked and free
  // before any work. Weights are zero.
  TrainingMemory(const ModelConfig& config, const RunConfig& run, int64_t validation_rows);

  // The two halves of `activations`.
  Arena scratch() const { return {activations.data(), scratch_bytes, {}}; }
  // f32 [3, elements] that a checkpoint is written from while training goes on; empty where it is not saved meanwhile,
  // or memory does not suffice.
  Tensor snapshot_tensor() const;
  Arena tape() const { return {activations.data() + scratch_bytes, tape_bytes, {}}; }
};

}  // namespace fulgur
