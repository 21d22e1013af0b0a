// Lane j of 16 takes elements j, j + 16, ... of a row; then lane j adds lane j + 8, + 4, + 2, + 1. All in f64.
#include "ops/magnitude.h"

#include <cmath>
#include <limits>
#include <vector>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

constexpr int64_t kLanes = 16;

struct RowMagnitude {
  double squares, largest;  // largest: of the row's numbers that are not NaN
};

template <class T>
RowMagnitude of_row(const T* x, int64_t n) {
  double squares[kLanes] = {}, largest[kLanes] = {};
  const auto take = [&](int64_t lane, T element) {
    const double value = double(Wide<T>(element)), size = std::fabs(value);
    squares[lane] += value * value;
    largest[lane] = size > largest[lane] ? size : largest[lane];
  };
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) take(j, x[i + j]);
  for (int64_t i = whole; i < n; ++i) take(i - whole, x[i]);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t j = 0; j < half; ++j)
      squares[j] += squares[j + half], largest[j] = std::max(largest[j], largest[j + half]);
  return {squares[0], largest[0]};
}

}  // namespace

void magnitude(Stream& stream, const Magnitude& op) {
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() {
    const Rows<T> x = rows_of<T>(op.x);
    std::vector<RowMagnitude> rows(static_cast<size_t>(x.count));
    for_rows(stream.threads(), x.count, x.width, [&](int64_t row) { rows[size_t(row)] = of_row(x[row], x.width); });
    double* sums = op.sums.elements<double>();
    for (const RowMagnitude& row : rows) {
      sums[0] += row.squares;
      if (std::isnan(sums[0])) sums[1] = std::numeric_limits<double>::quiet_NaN();
      else if (row.largest > sums[1]) sums[1] = row.largest;
    }
  });
}

}  // namespace fulgur::cpu
