// Gathers rows; its gradient clears dx and adds the rows back, every column in the order of the indices.
#include "ops/take_rows.h"

#include <cstring>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {

void take_rows(Stream& stream, const TakeRows& op) {
  const int32_t* indices = op.rows.elements<int32_t>();
  const int64_t taken = op.y.dim(0), width = op.y.dim(1);
  expect_indices(indices, taken, op.x.dim(0), "every index is a row of x or -1", -1);
  with_element_type<double, float>(op.x.dtype, [&]<class T>() {
    const Rows<T> y = rows_of<T>(op.y), x = rows_of<T>(op.x);
    for_rows(stream.threads(), taken, width, [&](int64_t i) {
      if (indices[i] < 0) std::fill_n(y[i], width, T(0));
      else std::memcpy(y[i], x[indices[i]], size_t(width) * sizeof(T));
    });
  });
}

void take_rows_backward(Stream& stream, const TakeRowsBackward& op) {
  const int32_t* indices = op.rows.elements<int32_t>();
  expect_indices(indices, op.dy.dim(0), op.dx.dim(0), "every index is a row of dx or -1", -1);
  with_element_type<double, float>(op.dy.dtype, [&]<class T>() {
    const Rows<T> dx = rows_of<T>(op.dx);
    for_rows(stream.threads(), dx.count, dx.width, [&](int64_t row) { std::fill_n(dx[row], dx.width, T(0)); });
    add_rows<T>(stream.threads(), dx, rows_of<T>(op.dy), indices);
  });
}

}  // namespace fulgur::cpu
