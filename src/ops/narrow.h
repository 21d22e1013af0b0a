// y = x rounded to bf16, to nearest even: the master weights as forward reads them.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct Narrow {
  Tensor y;  // bf16 [n]
  Tensor x;  // f32 [n]

  auto operands() const { return std::tuple{out(y), in(x)}; }
  void check() const {
    expect(x.rank == 1 && x.dtype == DType::f32 && x.dense(), "x is flat and f32");
    expect(y.is(DType::bf16, {x.dim(0)}) && y.dense(), "y is bf16 and as long as x");
  }
};

FULGUR_DECLARE_OPERATOR(narrow, Narrow)

}  // namespace fulgur
