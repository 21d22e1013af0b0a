// Gathers rows; its gradient sums for every row of dx the rows of dy that were taken from it, in their order.
#include "ops/take_rows.h"

#include <cstring>
#include <vector>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

// Rows of dy by the row of x that they were taken from, ascending: those of row r are rows[begin[r]] to
// rows[begin[r + 1]].
struct Takers {
  std::vector<int64_t> begin, rows;
};

Takers takers_of(const int32_t* indices, int64_t taken, int64_t count) {
  Takers takers{std::vector<int64_t>(size_t(count + 2)), std::vector<int64_t>(size_t(taken))};
  int64_t* const next = takers.begin.data() + 1;  // of row r, next[r]; once all have their place, where row r ended
  for (int64_t i = 0; i < taken; ++i)
    if (indices[i] >= 0) ++next[indices[i] + 1];
  for (int64_t row = 0; row < count; ++row) next[row + 1] += next[row];
  for (int64_t i = 0; i < taken; ++i)
    if (indices[i] >= 0) takers.rows[size_t(next[indices[i]]++)] = i;
  return takers;
}

template <class T>
void backward(Threads& threads, const TakeRowsBackward& op) {
  const Rows<T> dx = rows_of<T>(op.dx), dy = rows_of<T>(op.dy);
  const Takers takers = takers_of(op.rows.elements<int32_t>(), dy.count, dx.count);
  for_rows(threads, dx.count, dx.width, [&](int64_t row) {
    const int64_t first = takers.begin[size_t(row)], count = takers.begin[size_t(row + 1)] - first;
    row_gather<T>(dx[row], dy.data, dy.stride, takers.rows.data() + first, count, dx.width);
  });
}

}  // namespace

void take_rows(Stream& stream, const TakeRows& op) {
  const int32_t* indices = op.rows.elements<int32_t>();
  const int64_t taken = op.y.dim(0), width = op.y.dim(1);
  expect_indices(indices, taken, op.x.dim(0), "every index is a row of x or -1", -1);
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() {
    const Rows<T> y = rows_of<T>(op.y), x = rows_of<T>(op.x);
    for_rows(stream.threads(), taken, width, [&](int64_t i) {
      if (indices[i] < 0) std::fill_n(y[i], width, T{});
      else std::memcpy(y[i], x[indices[i]], size_t(width) * sizeof(T));
    });
  });
}

void take_rows_backward(Stream& stream, const TakeRowsBackward& op) {
  const int32_t* indices = op.rows.elements<int32_t>();
  expect_indices(indices, op.dy.dim(0), op.dx.dim(0), "every index is a row of dx or -1", -1);
  with_element_type<double, float, bf16>(op.dy.dtype, [&]<class T>() { backward<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu
