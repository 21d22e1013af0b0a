#include "train/spike_watch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"

namespace fulgur {
namespace {

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / double(values.size());
}

// Mean + sigma standard deviations.
double bound_of(const std::vector<double>& values, double sigma) {
  const double mean = mean_of(values);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return mean + sigma * std::sqrt(squares / double(values.size()));
}

void remember(std::vector<double>& values, double value, int64_t window) {
  values.push_back(value);
  if (int64_t(values.size()) > window) values.erase(values.begin());
}

}  // namespace

std::optional<StepBounds> SpikeWatch::bounds() const {
  if (rule_.window == 0) return std::nullopt;
  constexpr double kNone = std::numeric_limits<double>::infinity();
  if (int64_t(state_.losses.size()) < rule_.window) return StepBounds{kNone, kNone};
  return StepBounds{bound_of(state_.losses, rule_.sigma), bound_of(state_.gradient_norms, rule_.sigma)};
}

void SpikeWatch::note(const StepReport& taken) {
  if (rule_.window == 0) return;
  remember(state_.losses, taken.loss, rule_.window);
  remember(state_.gradient_norms, taken.gradient_norm, rule_.window);
}

void SpikeWatch::skip(const SkippedRows& rows) {
  SkippedRows merged = rows;
  std::vector<SkippedRows> apart;
  int64_t spikes = rows.spikes;
  for (const SkippedRows& other : state_.skipped) {
    spikes += other.spikes;
    if (other.end < rows.begin || rows.end < other.begin) {
      apart.push_back(other);
      continue;
    }
    merged.begin = std::min(merged.begin, other.begin), merged.end = std::max(merged.end, other.end);
    merged.spikes += other.spikes;
  }
  if (spikes > rule_.max)
    fail(ErrorKind::invalid_input, "step " + std::to_string(rows.step) + ": loss " + std::to_string(rows.loss) +
                                       ", gradient norm " + std::to_string(rows.gradient_norm) + ": spike " +
                                       std::to_string(spikes) + " of the run, train.spike.max is " +
                                       std::to_string(rule_.max) + ": look at the data, or lower train.lr");
  apart.push_back(merged);
  std::sort(apart.begin(), apart.end(), [](const SkippedRows& a, const SkippedRows& b) { return a.begin < b.begin; });
  state_.skipped = std::move(apart);
}

void SpikeWatch::go_back(const SpikeState& earlier) {
  state_.losses = earlier.losses, state_.gradient_norms = earlier.gradient_norms;
}

int64_t SpikeWatch::row_at(int64_t n) const {
  for (const SkippedRows& rows : state_.skipped) {
    if (n < rows.begin) break;
    n += rows.end - rows.begin;
  }
  return n;
}

const SkippedRows* SpikeWatch::skipped_before(int64_t n) const {
  const int64_t row = row_at(n);
  for (const SkippedRows& rows : state_.skipped)
    if (rows.end == row) return &rows;
  return nullptr;
}

}  // namespace fulgur
