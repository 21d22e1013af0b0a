// y = x / sqrt(mean(x^2) + eps) * weight, over the last axis.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct RmsNorm {
  Tensor y;       // [rows, width]; may be x itself
  Tensor x;       // [rows, width]
  Tensor weight;  // [width]
  double eps;
  Tensor inverse_rms = {};  // wide [rows], given when training: the backward pass reads it

  auto operands() const { return std::tuple{out(y), in(x), in(weight), out(inverse_rms)}; }
  void check() const {
    expect(x.rank == 2 && y.is(x.dtype, {x.dim(0), x.dim(1)}), "y matches x");
    expect(weight.is(x.dtype, {x.dim(1)}), "one weight per column");
    expect(!inverse_rms || inverse_rms.is(wide(x.dtype), {x.dim(0)}), "one inverse rms per row");
  }
};

struct RmsNormBackward {
  Tensor dx;            // [rows, width], overwritten; may be dy or carried
  Tensor dweight;       // wide [width], accumulated: rows ascending; on CUDA in pieces of 32 rows, pieces ascending
  Tensor dy, x;         // [rows, width]
  Tensor weight;        // [width]
  Tensor inverse_rms;   // wide [rows], as forward left it
  Tensor carried = {};  // [rows, width], or absent: dy + alpha * carried, rounded to their type, stands for dy; what
  double alpha = 0;     // reached y past the branch that read it (spec/model.md 2)

  auto operands() const {
    return std::tuple{out(dx), inout(dweight), in(dy), in(x), in(weight), in(inverse_rms), in(carried)};
  }
  void check() const {
    expect(x.rank == 2 && dx.is(x.dtype, {x.dim(0), x.dim(1)}) && dy.is(x.dtype, {x.dim(0), x.dim(1)}),
           "gradients match x");
    expect(!carried || (carried.same_shape(x) && carried.dtype == x.dtype), "what is carried matches x");
    expect(weight.is(x.dtype, {x.dim(1)}) && dweight.is(wide(x.dtype), {x.dim(1)}), "one weight per column");
    expect(inverse_rms.is(wide(x.dtype), {x.dim(0)}), "one inverse rms per row");
  }
};

FULGUR_DECLARE_OPERATOR(rms_norm, RmsNorm)
FULGUR_DECLARE_OPERATOR(rms_norm_backward, RmsNormBackward)

}  // namespace fulgur
