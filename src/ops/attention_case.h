// What the attention operators' cases share: the layout of a call's rows, and copies of tensors' elements.
#pragma once
#include "base/grid.h"
#include "ops/case.h"

namespace fulgur::cases {

// Sequences of a call, laid end to end: sequence s takes counts[s] rows from position starts[s] on.
struct Layout {
  Tensor row_begin, positions;
  int64_t rows = 0, longest = 0;
};

inline Layout lay_out(Bench& bench, const std::vector<int64_t>& counts, std::vector<int64_t> starts = {}) {
  starts.resize(counts.size(), 0);
  std::vector<int64_t> begin{0}, positions;
  Layout layout;
  for (size_t s = 0; s < counts.size(); ++s) {
    for (int64_t i = 0; i < counts[s]; ++i) positions.push_back(starts[s] + i);
    begin.push_back(layout.rows += counts[s]);
    layout.longest = std::max(layout.longest, counts[s]);
  }
  layout.row_begin = bench.indices(DType::i32, begin), layout.positions = bench.indices(DType::i64, positions);
  return layout;
}

inline void copy_elements(const Tensor& to, const Tensor& from) {
  for (int64_t i = 0; i < to.count(); ++i) set(to, i, get(from, i));
}

// The decays that lightning attention's cases use.
inline Tensor decays(Bench& bench, DType type, int64_t heads) { return bench.random(type, {heads}, 77, 0.3, 0.31); }

}  // namespace fulgur::cases
