// The stages of preparing data that drop documents which passed the first: duplicates, evaluation texts, the sampling
// of quality labels. Each has a key of all that decides what it drops.
#pragma once
#include <string>

#include "data/scorer.h"
#include "data/selection.h"

namespace fulgur {

struct Stages {
  const PrepareConfig& config;
  const WorkFolder& work;
  Threads& threads;
  Selection& selection;
  std::string key;  // of all stages so far

  // Later documents whose text is, white space apart, that of an earlier one.
  StageReport drop_exact_duplicates();
  StageReport drop_near_duplicates();
  // Documents that hold a window of an evaluation text.
  StageReport drop_evaluation_texts();
  // labels: of each document by its id, filled.
  StageReport sample_by_label(Scorer& scorer, std::vector<uint8_t>& labels);

 private:
  void take_key(const std::string& stage, const std::string& values);
  // The file of the stage and unit, made where it is missing: make(unit) to a vector of one element per kept document.
  template <class Make>
  void make_units(const std::string& stage, StageClock& clock, const Make& make);
  std::vector<std::string_view> kept_texts(const CleanedUnit& unit, int64_t number) const;
  std::vector<uint64_t> near_duplicates(StageClock& clock);
};

}  // namespace fulgur
