// How large numbers are: the sum of their squares, and the greatest magnitude. Squares are summed in f64, of a row in
// lanes, rows ascending, so that the sums do not depend on how the rows are cut into calls.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct Magnitude {
  Tensor sums;  // f64 [2], accumulated: the sum of squares; the greatest |x|, NaN from the first NaN on
  Tensor x;     // [rows, width]

  auto operands() const { return std::tuple{inout(sums), in(x)}; }
  void check() const {
    expect(sums.is(DType::f64, {2}), "the sum of squares and the greatest magnitude are f64");
    expect(x.rank == 2, "x has rows");
  }
};

FULGUR_DECLARE_OPERATOR(magnitude, Magnitude)

}  // namespace fulgur
