// y = alpha * a + beta * b, elementwise: the scaled residual of DeepNorm (arXiv 2203.00555), forward and backward.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct Blend {
  Tensor y;  // [rows, width]; may be a or b themselves
  Tensor a;
  double alpha;
  Tensor b = {};  // absent: y = alpha * a
  double beta = 0;

  auto operands() const { return std::tuple{out(y), in(a), in(b)}; }
  void check() const {
    expect(y.same_shape(a) && y.dtype == a.dtype, "y matches a");
    expect(!b || (b.same_shape(a) && b.dtype == a.dtype), "b matches a");
    expect(y.dense() && a.dense() && (!b || b.dense()), "blended tensors are dense");
  }
};

FULGUR_DECLARE_OPERATOR(blend, Blend)

}  // namespace fulgur
