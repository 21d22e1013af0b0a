// A counting sort on one thread: it reads a few integers per row, and its order is then stable without further care.
#include "ops/group_rows.h"

#include <limits>
#include <vector>

#include "ops/cpu/rows.h"

namespace fulgur::cpu {
namespace {

// [windows, experts]
std::vector<int32_t> count_choices(const Rows<int32_t>& ids, int64_t window, int64_t experts) {
  std::vector<int32_t> choices(size_t(ids.count / window * experts));
  for (int64_t row = 0; row < ids.count; ++row)
    for (int64_t slot = 0; slot < ids.width; ++slot) ++choices[size_t(row / window * experts + ids[row][slot])];
  return choices;
}

}  // namespace

void group_rows(Stream&, const GroupRows& op) {
  const Rows<int32_t> ids = rows_of<int32_t>(op.expert_ids), place = rows_of<int32_t>(op.place);
  int32_t *sorted = op.sorted_rows.elements<int32_t>(), *expert_begin = op.expert_begin.elements<int32_t>();
  const int64_t experts = op.expert_begin.dim(0) - 1, window = op.rows_per_window();
  const int64_t capacity = op.capacity > 0 ? op.capacity : std::numeric_limits<int64_t>::max();
  expect(experts >= 0, "expert_begin holds one more entry than there are experts");
  for (int64_t row = 0; row < ids.count; ++row)
    expect_indices(ids[row], ids.width, experts, "every choice is one of the experts");

  const std::vector<int32_t> choices = count_choices(ids, window, experts);
  if (op.choices) std::copy(choices.begin(), choices.end(), op.choices.elements<int32_t>());
  std::fill_n(expert_begin, experts + 1, 0);
  for (size_t i = 0; i < choices.size(); ++i)
    expert_begin[int64_t(i) % experts + 1] += int32_t(std::min<int64_t>(choices[i], capacity));
  for (int64_t e = 0; e < experts; ++e) expert_begin[e + 1] += expert_begin[e];

  std::vector<int32_t> next(expert_begin, expert_begin + experts);
  std::vector<int64_t> taken(static_cast<size_t>(experts));
  for (int64_t row = 0; row < ids.count; ++row) {
    if (row % window == 0) std::fill(taken.begin(), taken.end(), 0);
    for (int64_t slot = 0; slot < ids.width; ++slot) {
      const auto expert = size_t(ids[row][slot]);
      const bool kept = taken[expert]++ < capacity;
      const int32_t at = kept ? next[expert]++ : -1;
      place[row][slot] = at;
      if (kept) sorted[at] = int32_t(row);
    }
  }
  std::fill(sorted + expert_begin[experts], sorted + op.sorted_rows.count(), -1);
}

}  // namespace fulgur::cpu
