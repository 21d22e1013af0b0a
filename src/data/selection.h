// Selection: which of the cleaned documents are still in, stage by stage, and what the report says of each stage.
// A document's id is its place among all cleaned documents, in the inputs' order.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "data/clean_stage.h"

namespace fulgur {

struct StageReport {
  std::string name;
  double seconds = 0, mb_per_s = 0;
  int64_t documents_in = 0, bytes_in = 0, documents_out = 0, bytes_out = 0;
  DropCounts dropped;
};

class Selection {
 public:
  Selection(const CleanedUnits& cleaned, const WorkFolder& work);

  int64_t units() const { return int64_t(first_.size()) - 1; }
  int64_t documents() const { return first_.back(); }  // dropped ones too
  int64_t first(int64_t unit) const { return first_[size_t(unit)]; }
  int64_t unit_of(int64_t id) const;
  bool keeps(int64_t id) const { return kept_[size_t(id)] != 0; }
  CleanedUnit open(int64_t unit) const { return CleanedUnit(work_.file(kCleanStage, unit)); }
  int64_t kept_documents() const { return documents_; }
  int64_t kept_bytes() const { return bytes_; }
  int64_t kept_bytes(int64_t unit) const { return unit_bytes_[size_t(unit)]; }

  // A stage drops the given documents, ascending, each by a rule.
  struct Drop {
    int64_t id;
    std::string rule;
  };
  StageReport drop(const std::string& stage, const std::vector<Drop>& drops, const StageClock& clock);

 private:
  const CleanedUnits& cleaned_;
  const WorkFolder& work_;
  std::vector<int64_t> first_{0};  // id of each unit's first document, and the count
  std::vector<uint8_t> kept_;
  std::vector<int64_t> unit_bytes_;
  int64_t documents_ = 0, bytes_ = 0;
};

}  // namespace fulgur
