// `fulgur bench ops`: every operator alone, at the shapes and on the numbers that it meets in a prefill, a decode and a
// training step of the configuration's model, cut down to one layer of each kind.
#pragma once
#include <string>
#include <vector>

#include "bench/floors.h"
#include "bench/runs.h"

namespace fulgur::bench {

struct OperatorTime {
  std::string phase, name, shape;  // phase: prefill, decode, train
  double seconds = 0;              // of the fastest run
  Work work;
  std::vector<FloorTerm> floor;
};

struct OperatorBench {
  const RunConfig& run;
  DType type;
  int threads;
  int64_t tokens;      // of the prompt and of the training step
  std::string filter;  // a part of the operators' names; empty: all
};

// Throws out_of_memory.
std::vector<OperatorTime> time_operators(const OperatorBench& bench, Floors& floors);

// Visits each distinct call of the three steps before it runs: what time_operators times and instructions are counted
// of. shape: what tells calls of one operator in one step apart, its first product or its first tensor, and a number
// where that is not enough.
struct VisitedCall {
  const std::string &phase, &shape;
  const OperatorCall& call;
  const Replay& replay;
};
void visit_operators(const OperatorBench& bench, const std::function<void(const VisitedCall&)>& visit);

}  // namespace fulgur::bench
