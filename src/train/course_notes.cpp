#include "train/course_notes.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace fulgur {

std::string spike_line(const SkippedRows& rows, const StepBounds& bounds, int64_t goes_on) {
  char line[240];
  std::snprintf(
      line, sizeof line,
      "step %lld: loss %.4f (expected up to %.4f), gradient norm %.4g (up to %.4g): rows %lld to %lld are left "
      "out; going on after step %lld",
      static_cast<long long>(rows.step), rows.loss, bounds.loss, rows.gradient_norm, bounds.gradient_norm,
      static_cast<long long>(rows.begin), static_cast<long long>(rows.end - 1), static_cast<long long>(goes_on));
  return line;
}

void CourseNotes::say_sources(Progress& progress) {
  const std::vector<double> epochs = rows_.epochs_before(run_.rows_through(run_.steps));
  for (size_t s = 0; s < epochs.size(); ++s) {
    const double tokens = double(rows_.sources()[s].documents.tokens);
    char line[80];
    std::snprintf(line, sizeof line, ": %.4g %% of the run's tokens, %.2f epochs of ",
                  100 * epochs[s] * tokens / double(run_.tokens_through(run_.steps)), epochs[s]);
    progress.say("source " + rows_.sources()[s].name + line + short_number(tokens) + " tokens");
  }
}

// Up to the step's last row: what may be left out right after it is not always known yet.
std::vector<double> CourseNotes::epochs_after(int64_t step) {
  return rows_.epochs_before(step == 0 ? 0 : watch_.row_at(run_.rows_through(step) - 1) + 1);
}

CourseNotes::Fields CourseNotes::note(int64_t step, Progress& progress) {
  Fields fields;
  if (!run_.batch_ramp.empty()) fields.emplace_back("batch_tokens", double(run_.tokens_in(step)));
  const std::vector<double> epochs = epochs_after(step);
  for (size_t s = 0; s < epochs.size(); ++s) {
    const std::string& name = rows_.sources()[s].name;
    if (has_epochs_) fields.emplace_back("epochs_" + name, epochs[s]);
    if (std::ceil(epochs[s]) > std::max(std::ceil(epochs_[s]), 1.0))
      progress.say("step " + std::to_string(step) + ": the source " + name + " begins epoch " +
                   std::to_string(std::lround(std::ceil(epochs[s]))));
  }
  epochs_ = epochs;
  if (const SkippedRows* rows = watch_.skipped_before(run_.rows_through(step - 1)))
    for (const auto& [key, value] : {std::pair{"skipped_from", double(rows->begin)},
                                     {"skipped_to", double(rows->end)},
                                     {"spikes", double(rows->spikes)},
                                     {"spike_step", double(rows->step)},
                                     {"spike_loss", rows->loss},
                                     {"spike_gradient_norm", rows->gradient_norm}})
      fields.emplace_back(key, value);
  return fields;
}

}  // namespace fulgur
