// Timing by repetition: the fastest of several runs, each prepared outside the clock.
#pragma once
#include <algorithm>

#include "base/progress.h"

namespace fulgur::bench {

inline constexpr int kLeastRuns = 3;

// Seconds of the fastest run. prepare(i) comes before and check(i) after run i, both untimed; at least kLeastRuns runs
// after one that warms up, and as many as `least_seconds` of running take.
template <class Prepare, class Run, class Check>
double fastest(double least_seconds, const Prepare& prepare, const Run& run, const Check& check) {
  double best = 0, passed = 0;
  for (int i = 0; i <= kLeastRuns || passed < least_seconds; ++i) {
    prepare(i);
    const double start = monotonic_seconds();
    run(i);
    const double seconds = monotonic_seconds() - start;
    check(i);
    if (i == 0) continue;
    best = i == 1 ? seconds : std::min(best, seconds);
    passed += seconds;
  }
  return best;
}

}  // namespace fulgur::bench
