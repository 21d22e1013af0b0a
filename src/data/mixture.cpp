#include "data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr int64_t kUnit = int64_t(1) << 40;  // integers, so that an order is the same on every machine

// Weights as parts of kUnit; what rounding leaves is the largest's.
std::vector<int64_t> shares_of(const std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> shares;
  for (const double weight : weights) shares.push_back(int64_t(weight / sum * double(kUnit)));
  const auto largest = std::max_element(shares.begin(), shares.end());
  *largest += kUnit - std::accumulate(shares.begin(), shares.end(), int64_t(0));
  return shares;
}

// rows[s] places for each source s, spread evenly: the source that is furthest behind comes next.
std::vector<int32_t> spread(const std::vector<int64_t>& rows) {
  const int64_t all = std::accumulate(rows.begin(), rows.end(), int64_t(0));
  std::vector<int64_t> behind(rows.size());
  std::vector<int32_t> places;
  for (int64_t i = 0; i < all; ++i) {
    for (size_t s = 0; s < rows.size(); ++s) behind[s] += rows[s];
    const auto next = std::max_element(behind.begin(), behind.end());
    *next -= all;
    places.push_back(int32_t(next - behind.begin()));
  }
  return places;
}

}  // namespace

Mixture::Mixture(std::vector<MixtureStage> stages) : stages_(std::move(stages)) {
  expect(!stages_.empty() && stages_.front().first_row == 0, "a mixture begins at row 0");
  before_.assign(stages_.front().weights.size(), 0);
  begin_stage(0);
}

void Mixture::begin_stage(size_t stage) {
  stage_ = stage;
  cycle_begin_ = stages_[stage].first_row;
  const std::vector<int64_t> shares = shares_of(stages_[stage].weights);
  fixed_rows_.clear(), fraction_.clear(), rank_.clear();
  for (const int64_t share : shares) {
    fixed_rows_.push_back(kCycle * share / kUnit);
    fraction_.push_back(kCycle * share % kUnit);
  }
  fixed_ = spread(fixed_rows_);
  std::vector<int32_t> seen(shares.size());
  for (const int32_t source : fixed_) rank_.push_back(seen[size_t(source)]++);
  owed_.assign(shares.size(), 0);
  turns_.assign(size_t(kCycle) - fixed_.size(), -1);
  begin_cycle();
}

// Those that are owed most have a turn. A source with a turn in the cycle before keeps its place: then no kCycle rows
// hold two turns of one source.
void Mixture::begin_cycle() {
  std::vector<int32_t> order;
  for (size_t s = 0; s < fraction_.size(); ++s) {
    owed_[s] += fraction_[s];
    if (fraction_[s] > 0) order.push_back(int32_t(s));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return owed_[size_t(a)] > owed_[size_t(b)]; });
  order.resize(turns_.size());
  for (const int32_t source : order) owed_[size_t(source)] -= kUnit;
  for (int32_t& turn : turns_) {
    const auto kept = std::find(order.begin(), order.end(), turn);
    if (kept == order.end()) turn = -1;
    else order.erase(kept);
  }
  for (int32_t& turn : turns_)
    if (turn < 0) turn = order.front(), order.erase(order.begin());
}

int64_t Mixture::cycle_end() const {
  const int64_t end = cycle_begin_ + kCycle;
  return stage_ + 1 < stages_.size() ? std::min(end, stages_[stage_ + 1].first_row) : end;
}

int32_t Mixture::source_at(int64_t place) const {
  const int64_t fixed = int64_t(fixed_.size());
  return place < fixed ? fixed_[size_t(place)] : turns_[size_t(place - fixed)];
}

void Mixture::pass_cycle() {
  const int64_t rows = cycle_end() - cycle_begin_;
  if (rows == kCycle) {
    for (size_t s = 0; s < before_.size(); ++s) before_[s] += fixed_rows_[s];
    for (const int32_t source : turns_) ++before_[size_t(source)];
  } else {
    for (int64_t place = 0; place < rows; ++place) ++before_[size_t(source_at(place))];
  }
  cycle_begin_ += rows;
  if (stage_ + 1 < stages_.size() && cycle_begin_ == stages_[stage_ + 1].first_row) begin_stage(stage_ + 1);
  else begin_cycle();
}

void Mixture::go_to(int64_t row) {
  expect(row >= 0, "a row of the run");
  if (row < cycle_begin_) {
    before_.assign(before_.size(), 0);
    begin_stage(0);
  }
  while (row >= cycle_end()) pass_cycle();
}

MixedRow Mixture::at(int64_t row) {
  go_to(row);
  const int64_t place = row - cycle_begin_;
  const int32_t source = source_at(place);
  const bool fixed = place < int64_t(fixed_.size());
  return {source, before_[size_t(source)] + (fixed ? rank_[size_t(place)] : fixed_rows_[size_t(source)])};
}

std::vector<int64_t> Mixture::rows_before(int64_t row) {
  go_to(row);
  std::vector<int64_t> rows = before_;
  for (int64_t place = 0; place < row - cycle_begin_; ++place) ++rows[size_t(source_at(place))];
  return rows;
}

}  // namespace fulgur
