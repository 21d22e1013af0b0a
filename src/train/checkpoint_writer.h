// CheckpointWriter: saves a run beside its training. The tensors are copied between two steps; a thread writes the copy
// while training goes on. One write at a time: the next save waits for it.
#pragma once
#include <future>

#include "device/stream.h"
#include "train/run_checkpoint.h"

namespace fulgur {

class CheckpointWriter {
 public:
  // snapshot: f32 [3, elements] in main memory, or empty; without it save() returns when the checkpoint is complete.
  // All that is passed outlives the writer.
  CheckpointWriter(std::filesystem::path run_dir, const RunConfig& run, const RunIdentity& identity,
                   const ModelWeights& table, Tensor snapshot);
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  ~CheckpointWriter() = default;  // waits for the write

  // Of the step just taken. Throws what the write before, or this one, failed with.
  void save(Stream& stream, const TrainedTensors& tensors, int64_t step, const SpikeState& spikes = {});
  // Throws what a write has failed with; does not wait.
  void check();
  // The same when the write is complete.
  void finish();

 private:
  void write(const TrainedTensors& tensors, int64_t step, const SpikeState& spikes) const;

  const std::filesystem::path run_dir_;
  const RunConfig& run_;
  const RunIdentity& identity_;
  const ModelWeights& table_;
  const Tensor snapshot_;
  std::future<void> writing_;  // its destructor waits
};

}  // namespace fulgur
