#include "data/plan_rows.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr int64_t kEndless = std::numeric_limits<int64_t>::max() / 4;

int64_t divided_down(int64_t parts) { return parts >> 40; }
int64_t divided_up(int64_t parts) { return -divided_down(-parts); }

// How many rows of a source may lie among the first j, for each j.
struct Bounds {
  std::vector<int64_t> least, most;
};

// window: how far what is owed may differ from `length` rows before; all: from nothing.
Bounds bounds_of(const RowPlan& plan, size_t source, int64_t window, int64_t all) {
  const int64_t share = plan.shares[source], owed = plan.owed[source], n = plan.length;
  Bounds bounds{std::vector<int64_t>(size_t(n) + 1), std::vector<int64_t>(size_t(n) + 1, kEndless)};
  for (int64_t j = 1; j <= n; ++j) {
    int64_t low = -all, high = all;
    if (const int64_t at = j - 1 - (n - int64_t(plan.past.size())); at >= 0) {
      low = std::max(low, plan.past[size_t(at)][source] - window);
      high = std::min(high, plan.past[size_t(at)][source] + window);
    }
    bounds.least[size_t(j)] = divided_up(owed + j * share - high);
    bounds.most[size_t(j)] = divided_down(owed + j * share - low);
  }
  bounds.least.back() = std::max(bounds.least.back(), divided_down(n * share));
  bounds.most.back() = std::min(bounds.most.back(), divided_up(n * share));
  for (size_t j = 1; j <= size_t(n); ++j) bounds.least[j] = std::max(bounds.least[j], bounds.least[j - 1]);
  for (size_t j = size_t(n); j-- > 0;) bounds.most[j] = std::min(bounds.most[j], bounds.most[j + 1]);
  return bounds;
}

// Rows are jobs of one unit with a first and a last place each: the earliest deadline first finds an order if there is
// one. Equal deadlines go to the source that is owed most.
std::optional<std::vector<int32_t>> ordered(const RowPlan& plan, const std::vector<Bounds>& bounds) {
  const size_t sources = plan.shares.size(), n = size_t(plan.length);
  std::vector<int64_t> count(sources);
  std::vector<size_t> due(sources, 1);  // the first place by which another row is needed; n + 1: none
  std::vector<int32_t> order;
  for (size_t j = 1; j <= n; ++j) {
    int32_t next = -1;
    int64_t next_owed = 0;
    for (size_t s = 0; s < sources; ++s) {
      if (count[s] > bounds[s].most[j]) return std::nullopt;
      while (due[s] <= n && bounds[s].least[due[s]] <= count[s]) ++due[s];
      if (plan.shares[s] == 0 || count[s] == bounds[s].most[j]) continue;
      const int64_t owed = plan.owed[s] + int64_t(j) * plan.shares[s] - count[s] * kRowUnit;
      if (next < 0 || due[s] < due[size_t(next)] || (due[s] == due[size_t(next)] && owed > next_owed))
        next = int32_t(s), next_owed = owed;
    }
    if (next < 0) return std::nullopt;
    ++count[size_t(next)];
    order.push_back(next);
    for (size_t s = 0; s < sources; ++s)
      if (count[s] < bounds[s].least[j]) return std::nullopt;
  }
  return order;
}

}  // namespace

std::vector<int32_t> plan_rows(const RowPlan& plan) {
  constexpr int64_t kStep = kRowUnit / 16, kMost = 128;  // of steps that a source may be away from what it is owed
  const auto within = [&](int64_t window, int64_t all) {
    std::vector<Bounds> bounds;
    for (size_t s = 0; s < plan.shares.size(); ++s) bounds.push_back(bounds_of(plan, s, window, all * kStep));
    return ordered(plan, bounds);
  };
  int64_t window = kRowUnit;
  std::optional<std::vector<int32_t>> order;
  while (!(order = within(window, kMost))) {
    window += kStep;
    expect(window < kMost * kStep, "an order of the rows");
  }
  for (int64_t low = 0, high = kMost; low + 1 < high;) {
    const int64_t middle = (low + high) / 2;
    if (auto closer = within(window, middle)) order = std::move(closer), high = middle;
    else low = middle;
  }
  return *order;
}

}  // namespace fulgur
