// The gradients of a branch of experts, whose choices residual_norm adds up: y[row] = sum over slots of
// weights[row, slot] * x[place[row, slot]]. A choice without a place (-1) was dropped.
//
// A place outside [-1, rows * k) breaks the promise on the CPU. On CUDA, where it is not read back, its dweights are
// NaN, and no dx is written for it.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct CombineExpertsBackward {
  Tensor dx;        // [rows * k, width], overwritten where a choice has its place; no other row is touched
  Tensor dweights;  // wide [rows, k], overwritten: zero for a dropped choice
  Tensor dy;        // [rows, width]
  Tensor x;         // [rows * k, width]
  Tensor weights;   // wide [rows, k]
  Tensor place;     // i32 [rows, k], -1: dropped

  auto operands() const { return std::tuple{out(dx), out(dweights), in(dy), in(x), in(weights), in(place)}; }
  void check() const {
    expect(dx.same_shape(x) && dx.dtype == x.dtype && dy.is(x.dtype, {place.dim(0), x.dim(1)}),
           "gradients match x and y");
    expect(x.dim(0) == place.count() && place.dtype == DType::i32, "k expert rows per row");
    expect(weights.is(wide(x.dtype), {place.dim(0), place.dim(1)}), "one weight per choice");
    expect(dweights.same_shape(weights) && dweights.dtype == weights.dtype, "one gradient per weight");
  }
};

FULGUR_DECLARE_OPERATOR(combine_experts_backward, CombineExpertsBackward)

}  // namespace fulgur
