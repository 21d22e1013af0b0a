// Mixture: which source each row of a run comes from. Row i is a function of the stages and i alone. Within a stage any
// kCycle consecutive rows hold kCycle times a source's weight, rounded down or up; from its start on no error adds up.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fulgur {

// From `first_row` on; a weight for every source, none below 0, their sum above 0.
struct MixtureStage {
  int64_t first_row = 0;
  std::vector<double> weights;
};

struct MixedRow {
  int32_t source;
  int64_t row;  // of the source: the rows before that came from it
};

class Mixture {
 public:
  static constexpr int64_t kCycle = 1000;

  // Ascending; the first stage begins at row 0.
  explicit Mixture(std::vector<MixtureStage> stages);

  // Quickest where rows ascend; going back starts over, at a thousandth of a row's work for each row passed.
  MixedRow at(int64_t row);
  // Of each source, before this row.
  std::vector<int64_t> rows_before(int64_t row);

 private:
  void begin_stage(size_t stage);
  void begin_cycle();
  void pass_cycle();
  void go_to(int64_t row);
  int64_t cycle_end() const;
  int32_t source_at(int64_t place) const;  // of the cycle

  std::vector<MixtureStage> stages_;

  // Of the stage. A cycle is `fixed_`, the same in every cycle, and a row each for the sources in `turns_`.
  size_t stage_ = 0;
  std::vector<int64_t> fixed_rows_, fraction_;  // of each source: rows in fixed_; what a cycle owes it beyond, in kUnit
  std::vector<int32_t> fixed_, rank_;           // source of a place; places before it with the same source

  // Of the cycle.
  int64_t cycle_begin_ = 0;
  std::vector<int64_t> owed_;    // to each source, in kUnit
  std::vector<int32_t> turns_;   // -1 before the first cycle
  std::vector<int64_t> before_;  // rows of each source before the cycle
};

}  // namespace fulgur
