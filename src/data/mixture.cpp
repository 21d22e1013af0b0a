#include "data/mixture.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "data/plan_rows.h"

namespace fulgur {
namespace {

// Weights as parts of a row; what rounding leaves is the largest's.
std::vector<int64_t> shares_of(const std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> shares;
  for (const double weight : weights) shares.push_back(int64_t(weight / sum * double(kRowUnit)));
  const auto largest = std::max_element(shares.begin(), shares.end());
  *largest += kRowUnit - std::accumulate(shares.begin(), shares.end(), int64_t(0));
  return shares;
}

}  // namespace

Mixture::Mixture(std::vector<MixtureStage> stages) : stages_(std::move(stages)) {
  expect(!stages_.empty() && stages_.front().first_row == 0, "a mixture begins at row 0");
  start_over();
}

void Mixture::start_over() {
  const size_t sources = stages_.front().weights.size();
  before_.assign(sources, 0), owed_.assign(sources, 0);
  past_ = {owed_};
  begin_stage(0);
}

void Mixture::begin_stage(size_t stage) {
  stage_ = stage;
  cycle_begin_ = stages_[stage].first_row;
  shares_ = shares_of(stages_[stage].weights);
  fixed_rows_.clear(), fraction_.clear();
  for (const int64_t share : shares_) {
    fixed_rows_.push_back(kCycle * share / kRowUnit);
    fraction_.push_back(kCycle * share % kRowUnit);
  }
  plan_cycle();
  place_turns();
}

// The cycles to come repeat this one.
void Mixture::place_turns() {
  turn_places_.clear(), turns_.clear();
  for (size_t s = 0; s < counts_.size(); ++s) {
    if (counts_[s] == fixed_rows_[s]) continue;
    int64_t middle = counts_[s] / 2, place = 0;  // of the source's places the one in the middle
    for (; order_[size_t(place)] != int32_t(s) || middle > 0; ++place) middle -= order_[size_t(place)] == int32_t(s);
    turn_places_.push_back(place), turns_.push_back(int32_t(s));
  }
}

int64_t Mixture::stage_end() const {
  return stage_ + 1 < stages_.size() ? stages_[stage_ + 1].first_row : std::numeric_limits<int64_t>::max();
}

int64_t Mixture::cycle_end() const { return std::min(cycle_begin_ + kCycle, stage_end()); }

void Mixture::plan_cycle() {
  order_ = plan_rows({.shares = shares_, .owed = owed_, .past = past_, .length = kCycle});
  rank_.clear();
  counts_.assign(shares_.size(), 0);
  for (const int32_t source : order_) ++counts_[size_t(source)];
}

// Those that are owed most have a turn. A source with a turn in the cycle before keeps its place: then no kCycle rows
// hold two turns of one source.
void Mixture::take_turns() {
  std::vector<int32_t> next;
  for (size_t s = 0; s < fraction_.size(); ++s)
    if (fraction_[s] > 0) next.push_back(int32_t(s));
  const auto owed = [&](int32_t s) { return owed_[size_t(s)] + fraction_[size_t(s)]; };
  std::stable_sort(next.begin(), next.end(), [&](int32_t a, int32_t b) { return owed(a) > owed(b); });
  next.resize(turns_.size());
  counts_ = fixed_rows_;
  for (const int32_t source : next) ++counts_[size_t(source)];
  for (int32_t& turn : turns_) {
    const auto kept = std::find(next.begin(), next.end(), turn);
    if (kept == next.end()) turn = -1;
    else next.erase(kept);
  }
  for (size_t t = 0; t < turns_.size(); ++t) {
    if (turns_[t] < 0) turns_[t] = next.front(), next.erase(next.begin());
    order_[size_t(turn_places_[t])] = turns_[t];
  }
  rank_.clear();
}

void Mixture::begin_cycle() {
  if (stage_end() - cycle_begin_ < kPlanned) plan_cycle();
  else take_turns();
}

void Mixture::note_past(int64_t rows) {
  std::vector<int64_t> owed = owed_;
  for (int64_t place = 0; place < rows; ++place) {
    for (size_t s = 0; s < owed.size(); ++s) owed[s] += shares_[s];
    owed[size_t(order_[size_t(place)])] -= kRowUnit;
    past_.push_back(owed);
  }
  if (int64_t(past_.size()) > kCycle) past_.erase(past_.begin(), past_.end() - kCycle);
}

void Mixture::pass_cycle() {
  const int64_t rows = cycle_end() - cycle_begin_;
  if (stage_end() - cycle_begin_ < kPlanned + kCycle) note_past(rows);
  else past_.clear();
  if (rows < kCycle) {
    counts_.assign(counts_.size(), 0);
    for (int64_t place = 0; place < rows; ++place) ++counts_[size_t(order_[size_t(place)])];
  }
  for (size_t s = 0; s < counts_.size(); ++s) {
    before_[s] += counts_[s];
    owed_[s] += rows * shares_[s] - counts_[s] * kRowUnit;
  }
  cycle_begin_ += rows;
  if (cycle_begin_ == stage_end()) begin_stage(stage_ + 1);
  else begin_cycle();
}

void Mixture::go_to(int64_t row) {
  expect(row >= 0, "a row of the run");
  if (row < cycle_begin_) start_over();
  while (row >= cycle_end()) pass_cycle();
}

MixedRow Mixture::at(int64_t row) {
  go_to(row);
  if (rank_.empty()) {
    std::vector<int64_t> seen(shares_.size());
    for (const int32_t source : order_) rank_.push_back(seen[size_t(source)]++);
  }
  const size_t place = size_t(row - cycle_begin_);
  return {order_[place], before_[size_t(order_[place])] + rank_[place]};
}

std::vector<int64_t> Mixture::rows_before(int64_t row) {
  go_to(row);
  std::vector<int64_t> rows = before_;
  for (int64_t place = 0; place < row - cycle_begin_; ++place) ++rows[size_t(order_[size_t(place)])];
  return rows;
}

}  // namespace fulgur
