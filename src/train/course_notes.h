// CourseNotes: what a run says of its sources, batches and the rows it leaves out.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "base/progress.h"
#include "data/mixed_rows.h"
#include "train/run_config.h"
#include "train/spike_watch.h"

namespace fulgur {

// Of a step that was not taken, for the terminal; goes_on: the step that the run is back at.
std::string spike_line(const SkippedRows& rows, const StepBounds& bounds, int64_t goes_on);

class CourseNotes {
 public:
  using Fields = std::vector<std::pair<std::string, double>>;  // of metrics.jsonl

  // What is passed outlives the notes. epochs: whether the fields have them.
  CourseNotes(const RunConfig& run, MixedRows& rows, const SpikeWatch& watch, bool epochs)
      : run_(run), rows_(rows), watch_(watch), has_epochs_(epochs) {}

  // What the whole run takes of each source, a line each.
  void say_sources(Progress& progress);
  // The run stands after this step: it starts, or has gone back.
  void stand_at(int64_t step) { epochs_ = epochs_after(step); }
  // Of the step just taken. Says which sources begin again.
  Fields note(int64_t step, Progress& progress);

 private:
  std::vector<double> epochs_after(int64_t step);

  const RunConfig& run_;
  MixedRows& rows_;
  const SpikeWatch& watch_;
  bool has_epochs_;
  std::vector<double> epochs_;  // that each source has gone through
};

}  // namespace fulgur
