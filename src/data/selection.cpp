#include "data/selection.h"

#include <algorithm>
#include <optional>

namespace fulgur {

Selection::Selection(const CleanedUnits& cleaned, const WorkFolder& work) : cleaned_(cleaned), work_(work) {
  for (const CleanedUnits::Unit& unit : cleaned.units) {
    first_.push_back(first_.back() + unit.documents);
    unit_bytes_.push_back(unit.bytes);
    bytes_ += unit.bytes;
  }
  documents_ = first_.back();
  kept_.assign(size_t(documents_), 1);
}

int64_t Selection::unit_of(int64_t id) const {
  return std::upper_bound(first_.begin(), first_.end(), id) - first_.begin() - 1;
}

StageReport Selection::drop(const std::string& stage, const std::vector<Drop>& drops, const StageClock& clock) {
  StageReport report{.name = stage,
                     .seconds = clock.seconds(),
                     .mb_per_s = clock.mb_per_s(),
                     .documents_in = documents_,
                     .bytes_in = bytes_,
                     .dropped = {}};
  std::optional<CleanedUnit> opened;
  int64_t unit = -1;
  for (const Drop& drop : drops) {
    if (unit_of(drop.id) != unit) unit = unit_of(drop.id), opened.emplace(open(unit));
    const int64_t i = drop.id - first(unit), bytes = opened->bytes(i);
    kept_[size_t(drop.id)] = 0;
    --documents_, bytes_ -= bytes, unit_bytes_[size_t(unit)] -= bytes;
    report.dropped.rules[drop.rule].add(bytes, cleaned_.inputs[size_t(opened->input(i))].path, opened->number(i),
                                        [&] { return opened->text(i); });
  }
  report.documents_out = documents_, report.bytes_out = bytes_;
  return report;
}

}  // namespace fulgur
