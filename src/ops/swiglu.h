// y = SiLU(gate) * up, elementwise: the middle of an expert (spec/model.md 2.3; gate = w1, up = w3). Gradients may be
// columns of a larger matrix.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct Swiglu {
  Tensor y, gate, up;  // [rows, width], dense; y may be gate or up

  auto operands() const { return std::tuple{out(y), in(gate), in(up)}; }
  void check() const {
    expect(y.same_shape(gate) && up.same_shape(gate) && y.dtype == gate.dtype && up.dtype == gate.dtype,
           "y and up match gate");
    expect(y.dense() && gate.dense() && up.dense(), "the tensors are dense");
  }
};

struct SwigluBackward {
  Tensor dgate, dup;    // [rows, width], overwritten; dgate or dup may be dy
  Tensor dy, gate, up;  // [rows, width]

  auto operands() const { return std::tuple{out(dgate), out(dup), in(dy), in(gate), in(up)}; }
  void check() const {
    expect(dgate.same_shape(gate) && dup.same_shape(gate) && dy.same_shape(gate) && up.same_shape(gate),
           "gradients match gate");
  }
};

FULGUR_DECLARE_OPERATOR(swiglu, Swiglu)
FULGUR_DECLARE_OPERATOR(swiglu_backward, SwigluBackward)

}  // namespace fulgur
