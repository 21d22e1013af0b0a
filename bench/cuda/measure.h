// Measures the lines of the CUDA bench's table into a document (bench/results keeps such), with the rates of the run.
#pragma once
#include <nlohmann/json.hpp>

#include "bench/cuda/lines.h"

namespace fulgur::bench {

using Document = nlohmann::ordered_json;

struct MeasureOptions {
  std::string filter;    // a part of "operator shape"; empty: all
  double seconds = 0.2;  // of each line's timing, at least
  bool errors = true;    // samples are compared with f64
  DeviceId device = {DeviceKind::cuda, 0};
};

// card, driver, date, rates, and one figure a line, the keys of dev/compare_bench included. Throws device,
// out_of_memory.
Document measure(const std::vector<Line>& lines, const MeasureOptions& options);

}  // namespace fulgur::bench
