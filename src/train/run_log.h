// RunLog: all that a run writes down while it goes on: metrics.jsonl, alarms.jsonl, samples.jsonl and TensorBoard's
// events (docs/formats.md).
#pragma once
#include <optional>

#include "train/alarms.h"
#include "train/event_file.h"
#include "train/metrics.h"

namespace fulgur {

class RunLog {
 public:
  // from_step: of the checkpoint that the run goes on from; every file is cut back to what is not written again, and
  // what it held is read, for the alarms and the events. Throws not_found for what cannot be written.
  RunLog(const std::filesystem::path& run_dir, const RunConfig& run, std::optional<int64_t> from_step);

  // Of the lines that stay: the losses, and the run's seconds up to there.
  std::vector<double> losses() const { return losses_; }
  double seconds() const { return seconds_; }

  // A line of metrics.jsonl. Returns the alarms that begin with it, which are written down.
  std::vector<Alarm> write(const MetricLine& values);
  void alarm(const Alarm& alarm);
  void sample(int64_t step, const std::string& prompt, const std::string& text);
  // Returns when all lines of metrics.jsonl are on the disk.
  void flush() { metrics_->flush(); }

 private:
  void take_up();
  std::vector<Alarm> follow(const MetricLine& line);
  void follow_sample(int64_t step, const std::string& prompt, const std::string& text);

  const std::filesystem::path dir_;
  const std::optional<int64_t> from_step_;
  Alarms alarms_;
  std::vector<double> losses_;
  double seconds_ = 0, time_ = 0;  // time_: of the last step, seconds since 1970
  int64_t sampled_step_ = -1, sample_number_ = 0;
  std::optional<EventFile> events_;
  std::optional<Metrics> metrics_;
};

}  // namespace fulgur
