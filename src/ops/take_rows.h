// y[i] = x[rows[i]]: gathers whole rows, for the head and for the experts. -1 takes a row of zeros.
//
// An index outside [-1, rows) breaks the promise on the CPU. On CUDA, where it is not read back, it takes a row of NaN,
// and backward leaves its row of dy out.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct TakeRows {
  Tensor y;     // [taken, width]
  Tensor x;     // [rows, width]
  Tensor rows;  // i32 [taken], each in [-1, rows)

  auto operands() const { return std::tuple{out(y), in(x), in(rows)}; }
  int64_t bytes() const { return 2 * y.bytes() + rows.bytes(); }
  void check() const {
    expect(y.is(x.dtype, {rows.dim(0), x.dim(1)}), "one row of x per index");
    expect(rows.is(DType::i32, {y.dim(0)}), "indices are i32");
  }
};

struct TakeRowsBackward {
  Tensor dx;    // [rows, width], overwritten: the sum, i ascending, of dy[i] over rows[i] == row; zero elsewhere
  Tensor dy;    // [taken, width]
  Tensor rows;  // i32 [taken], each in [-1, rows)

  auto operands() const { return std::tuple{out(dx), in(dy), in(rows)}; }
  void check() const {
    expect(dx.is(dy.dtype, {dx.dim(0), dy.dim(1)}), "dx matches dy");
    expect(rows.is(DType::i32, {dy.dim(0)}), "one index per row of dy");
  }
};

FULGUR_DECLARE_OPERATOR(take_rows, TakeRows)
FULGUR_DECLARE_OPERATOR(take_rows_backward, TakeRowsBackward)

}  // namespace fulgur
