// y = x * w^T, and its two gradients.
#pragma once
#include "ops/operator.h"
#include "ops/products.h"

namespace fulgur {

struct Linear {
  Tensor y;  // [rows, out]; run type, or wide (router, head)
  Tensor x;  // [rows, in]
  Weight w;  // [out, in]

  auto operands() const { return std::tuple{out(y), in(x), in(w)}; }
  Products products() const { return {output_product(y, x, w)}; }
  void check() const {
    expect(!w.scales, "only experts' weights are quantised");
    expect(w.values.rank == 2 && x.rank == 2 && x.dim(1) == w.in(), "x has the weight's inputs");
    expect(y.rank == 2 && y.dim(0) == x.dim(0) && y.dim(1) == w.out(), "y has the weight's outputs");
    expect(y.dtype == x.dtype || y.dtype == wide(x.dtype), "y is of the run type or wide");
  }
};

struct LinearBackward {
  Tensor dx;  // [rows, in] = dy * w, or added to what is there
  Tensor dw;  // wide [out, in], accumulated: rows ascending from the value already there
  Tensor dy;  // [rows, out]; run type, or wide as y was
  Tensor x;   // [rows, in]
  Weight w;   // [out, in]
  Store dx_store = Store::overwrite;

  auto operands() const {
    return std::tuple{dx_store == Store::add ? inout(dx) : out(dx), inout(dw), in(dy), in(x), in(w)};
  }
  Products products() const {
    return {input_gradient_product(dx, dy, w, dx_store == Store::add), weight_gradient_product(dw, dy, x)};
  }
  void check() const {
    expect(!w.scales, "only experts' weights are quantised");
    expect(dx.same_shape(x) && dx.dtype == x.dtype, "dx matches x");
    expect(dw.is(wide(x.dtype), {w.out(), w.in()}), "dw is wide and matches the weight");
    expect(x.rank == 2 && x.dim(1) == w.in(), "x has the weight's inputs");
    expect(dy.rank == 2 && dy.dim(0) == x.dim(0) && dy.dim(1) == w.out(), "dy has the weight's outputs");
    expect(dy.dtype == x.dtype || dy.dtype == wide(x.dtype), "dy is of the run type or wide");
  }
};

FULGUR_DECLARE_OPERATOR(linear, Linear)
FULGUR_DECLARE_OPERATOR(linear_backward, LinearBackward)

}  // namespace fulgur
