// Mixture: which source each row of a run comes from. Row i is a function of the stages and i alone. Any kCycle rows in
// a row within a stage hold kCycle times a source's weight, rounded down or up; no error adds up, and what a source is
// owed at the end of a stage the next one gives it.
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

  // Quickest where rows ascend; going back starts over, at a thousandth of a row's work for each row passed and some
  // milliseconds for each stage.
  MixedRow at(int64_t row);
  // Of each source, before this row.
  std::vector<int64_t> rows_before(int64_t row);

 private:
  static constexpr int64_t kPlanned = 4 * kCycle;  // rows before a change of stage whose order is planned

  void start_over();
  void begin_stage(size_t stage);
  void begin_cycle();
  void plan_cycle();
  void place_turns();
  void take_turns();
  void note_past(int64_t rows);
  void pass_cycle();
  void go_to(int64_t row);
  int64_t stage_end() const;
  int64_t cycle_end() const;

  std::vector<MixtureStage> stages_;

  // Of the stage. Its first cycle is planned and so are those before the next stage; between them a cycle is the first
  // one over again, but for a row each for the sources in `turns_`.
  size_t stage_ = 0;
  std::vector<int64_t> shares_, fixed_rows_, fraction_;  // of each source; rows of every cycle, and what is owed beyond
  std::vector<int64_t> turn_places_;
  std::vector<int32_t> turns_;  // the sources in turn_places_

  // Of the cycle. What is owed is in parts of a row.
  int64_t cycle_begin_ = 0;
  std::vector<int32_t> order_;              // the source of each place
  std::vector<int64_t> rank_;               // places before it with the same source; empty until it is asked for
  std::vector<int64_t> counts_;             // rows of each source in the cycle
  std::vector<int64_t> before_, owed_;      // rows of each source before the cycle; what it is owed then
  std::vector<std::vector<int64_t>> past_;  // what was owed after each of the last kCycle rows, where plans ask for it
};

}  // namespace fulgur
