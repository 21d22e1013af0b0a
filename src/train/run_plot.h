// The curves of runs, one over the other: loss, validation, learning rate, gradient norm, speed and health.
#pragma once
#include <string>
#include <vector>

#include "train/run_history.h"

namespace fulgur {

// A panel for every figure that some run has. Of the layers' figures a single run shows each layer, several runs their
// greatest (the least, of entropies). At most eight runs; throws invalid_input for more and for none.
Chart chart_of(const std::vector<RunHistory>& runs, RunAxis axis);

// Each y the mean over the points around it, a fiftieth of all.
std::vector<ChartPoint> smoothed(const std::vector<ChartPoint>& points);

}  // namespace fulgur
