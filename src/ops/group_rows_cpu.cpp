// A counting sort on one thread: it reads a few integers per row, and its order is then stable without further care.
#include "ops/group_rows.h"

#include <vector>

#include "ops/cpu/rows.h"

namespace fulgur::cpu {

void group_rows(Stream&, const GroupRows& op) {
  const Rows<int32_t> ids = rows_of<int32_t>(op.expert_ids), place = rows_of<int32_t>(op.place);
  int32_t *sorted = op.sorted_rows.elements<int32_t>(), *expert_begin = op.expert_begin.elements<int32_t>();
  const int64_t experts = op.expert_begin.dim(0) - 1;
  expect(experts >= 0, "expert_begin holds one more entry than there are experts");
  for (int64_t row = 0; row < ids.count; ++row)
    expect_indices(ids[row], ids.width, experts, "every choice is one of the experts");

  std::fill_n(expert_begin, experts + 1, 0);
  for (int64_t row = 0; row < ids.count; ++row)
    for (int64_t slot = 0; slot < ids.width; ++slot) ++expert_begin[ids[row][slot] + 1];
  for (int64_t e = 0; e < experts; ++e) expert_begin[e + 1] += expert_begin[e];

  std::vector<int32_t> next(expert_begin, expert_begin + experts);
  for (int64_t row = 0; row < ids.count; ++row) {
    for (int64_t slot = 0; slot < ids.width; ++slot) {
      const int32_t at = next[size_t(ids[row][slot])]++;
      place[row][slot] = at;
      sorted[at] = int32_t(row);
    }
  }
}

}  // namespace fulgur::cpu
