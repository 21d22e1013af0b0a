// The memory of a run: counted to the byte before any is taken, then held. The arenas are sized by a measuring run of
// the step's own code.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "device/buffer.h"
#include "train/micro_graphs.h"
#include "train/run_config.h"
#include "train/train_step.h"

namespace fulgur {

// Bytes of the two arenas that an Exec needs.
struct ArenaBytes {
  size_t scratch, tape;
};
// Of one micro_step over `rows` rows, its batch laid out in scratch.
ArenaBytes measured_micro_step(const ModelConfig& config, DType type, int64_t rows, DeviceId device = {},
                               bool in_order = true);

// Bytes of a run, by what they serve, on the device that it runs on; a snapshot lies in main memory.
struct TrainingPlan {
  size_t weights = 0;    // what forward reads; in f32 runs the decays alone, for it reads the master
  size_t master = 0;     // f32 weights
  size_t gradients = 0;  // f32, one buffer for each level of the lanes' tree
  size_t moments = 0;    // f32, two; and which elements weight decay leaves alone
  size_t scratch = 0;    // of a layer, of a step's batches, of validation: whichever is most
  size_t tape = 0;       // what backward reads back
  DeviceId device;
  size_t snapshot = 0;   // what a checkpoint is written from while training goes on; 0 where it is not, or does not fit
  size_t operators = 0;  // what operators pack and sum in, outside the arenas: taken at once on CUDA, else at most
  size_t free = 0;       // of the device, before any is taken
  bool saves_between_steps = false;  // for want of room for a snapshot

  struct Part {
    const char* name;
    size_t bytes;
  };
  std::vector<Part> parts() const;  // those that take bytes
  size_t total() const;             // of the device
  std::string describe() const;     // one line
};

// validation_rows: of the largest validation batch, 0 without any. free: by default, what the run's device has.
TrainingPlan plan_training(const ModelConfig& config, const RunConfig& run, int64_t validation_rows, size_t free);
TrainingPlan plan_training(const ModelConfig& config, const RunConfig& run, int64_t validation_rows);

struct TrainingMemory {
  TrainingPlan plan;
  Buffer weights, decays, master, gradients, moments, not_decayed, activations, operators, snapshot;
  TrainingState state;
  std::unique_ptr<MicroGraphs> graphs;  // the state's, on a GPU

  // Throws out_of_memory before any work, with the bytes of every part, what is free, and the keys that help.
  // All values are zero.
  TrainingMemory(const ModelConfig& config, const RunConfig& run, int64_t validation_rows);

  // What a run has taken, by the names of the plan's parts: buffers, and the most that its arenas and operators held.
  // Of the CPU's operators nobody knows.
  std::vector<TrainingPlan::Part> used(const Arena& scratch, const Arena& tape, const Stream& stream) const;
  // The operators' part, which must outlive the stream.
  void lend_to(Stream& stream) const;
  // f32 [3, elements] in main memory: where checkpoints are copied to; empty where they are written between steps.
  Tensor snapshot_tensor() const;
  // The two parts of `activations`.
  Arena scratch() const { return {activations.data(), plan.scratch, plan.device}; }
  Arena tape() const { return {activations.data() + plan.scratch, plan.tape, plan.device}; }
};

}  // namespace fulgur
