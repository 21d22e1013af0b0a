// Where experts' choices, or another branch, join the residual stream before a product: residual_norm, and linear of
// its y. The bits are those of the two.
#pragma once
#include "ops/linear.h"
#include "ops/residual_norm.h"

namespace fulgur {

struct ResidualNormLinear {
  Tensor y;           // [rows, out]
  ResidualNorm join;  // its y is the product's x
  Weight w;           // [out, width]

  Linear product() const { return {.y = y, .x = join.y, .w = w}; }
  auto operands() const { return std::tuple_cat(std::tuple{out(y), in(w)}, join.operands()); }
  Products products() const { return product().products(); }
  void check() const {
    join.check(), product().check();
    expect(y.dtype == join.y.dtype, "y is of the run type");
  }
};

FULGUR_DECLARE_OPERATOR(residual_norm_linear, ResidualNormLinear)

}  // namespace fulgur
