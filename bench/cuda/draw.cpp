#include "bench/cuda/draw.h"

#include <algorithm>

#include "bench/cuda/kernels.h"

namespace fulgur::bench {

Tensor Draw::normal(DType type, std::initializer_list<int64_t> shape, double deviation, double mean) {
  const Tensor t = arena_.alloc(type, shape);
  if (t.data) fill_normal(stream_, t, seed_++, deviation, mean);
  return t;
}

Layout lay_out(const std::vector<int64_t>& rows, const std::vector<int64_t>& starts) {
  Layout layout{.row_begin = {0}, .positions = {}};
  for (size_t s = 0; s < rows.size(); ++s) {
    for (int64_t i = 0; i < rows[s]; ++i) layout.positions.push_back(starts[s] + i);
    layout.rows += rows[s], layout.longest = std::max(layout.longest, rows[s]);
    layout.row_begin.push_back(int32_t(layout.rows));
  }
  return layout;
}

}  // namespace fulgur::bench
