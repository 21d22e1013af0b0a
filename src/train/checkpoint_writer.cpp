#include "train/checkpoint_writer.h"

#include <chrono>

namespace fulgur {

CheckpointWriter::CheckpointWriter(std::filesystem::path run_dir, const RunConfig& run, const RunIdentity& identity,
                                   const ModelWeights& table, Tensor snapshot)
    : run_dir_(std::move(run_dir)), run_(run), identity_(identity), table_(table), snapshot_(snapshot) {}

void CheckpointWriter::save(Stream& stream, const TrainedTensors& tensors, int64_t step, const SpikeState& spikes) {
  finish();
  if (!snapshot_) return stream.synchronize(), write(tensors, step, spikes);
  const TrainedTensors copies{snapshot_.at(0), snapshot_.at(1), snapshot_.at(2)};
  copy(stream, copies.master, tensors.master);
  copy(stream, copies.first, tensors.first), copy(stream, copies.second, tensors.second);
  stream.synchronize();
  writing_ = std::async(std::launch::async, [this, copies, step, spikes] { write(copies, step, spikes); });
}

void CheckpointWriter::check() {
  if (writing_.valid() && writing_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) finish();
}

void CheckpointWriter::finish() {
  if (writing_.valid()) writing_.get();
}

void CheckpointWriter::write(const TrainedTensors& tensors, int64_t step, const SpikeState& spikes) const {
  try {
    save_run_checkpoint(run_dir_, run_, identity_, table_, tensors, step, spikes);
  } catch (const Error& error) {
    const int64_t newest = newest_checkpoint(run_dir_);
    fail(error.kind(), std::string(error.what()) + "; saving step " + std::to_string(step) + " failed, " +
                           (newest < 0 ? "and there is no complete checkpoint"
                                       : "step-" + std::to_string(newest) + " is the newest complete checkpoint"));
  }
}

}  // namespace fulgur
