// The table of one recorded step: per operator its time beside its floor, and the step's floor term by term.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bench/floors.h"

namespace fulgur::bench {

struct OperatorRow {
  std::string name;
  int64_t calls = 0;
  double seconds = 0, floor = 0;
  int64_t bytes = 0;
  double flops = 0;
};

struct StepTable {
  std::vector<OperatorRow> operators;  // the longest first
  std::vector<FloorTerm> terms;        // of all operators, the longest first
  double seconds = 0, between = 0;     // of the step; of it, what passed outside operators
  double floor() const { return seconds_of(terms); }
};

StepTable table_of(const Recorder& recorder, Floors& floors);

std::string text_of(const StepTable& table, Floors& floors);
nlohmann::ordered_json json_of(const StepTable& table);
nlohmann::ordered_json json_of(Floors& floors);  // the rates

// "12.3 %".
std::string percent(double share);

}  // namespace fulgur::bench
