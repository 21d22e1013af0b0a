// Where a branch joins the residual stream and the next begins: sum = alpha * carried + beta * branch, and
// y = sum / sqrt(mean(sum^2) + eps) * weight (DeepNorm's scaled residual, arXiv 2203.00555; spec/model.md 2). The
// branch, sum and y are rounded to their type one after the other, as if each had been an operator's result.
//
// A branch of experts is not there yet, but its choices are: branch[row] = sum over slots, in slot order, of
// expert_weights[row, slot] * branch[place[row, slot]]. A choice without a place (-1) was dropped: it adds nothing, and
// the other weights stay as they are. A place outside [-1, rows * k) breaks the promise on the CPU. On CUDA, where it
// is not read back, its row of y and sum is NaN.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct ResidualNorm {
  Tensor y;        // [rows, width]; may be carried or branch, the latter if it is one of rows
  Tensor sum;      // [rows, width], may be carried; absent: nobody reads it again
  Tensor carried;  // [rows, width]
  double alpha;
  Tensor branch;  // [rows, width], or of experts [rows * k, width], grouped by expert
  double beta;
  Tensor expert_weights;  // wide [rows, k], of experts
  Tensor place;           // i32 [rows, k], -1: dropped; of experts
  Tensor weight;          // [width]
  double eps;
  Tensor inverse_rms;  // wide [rows], given when training: the backward pass reads it

  auto operands() const {
    return std::tuple{out(y),    out(sum),   in(carried),     in(branch), in(expert_weights),
                      in(place), in(weight), out(inverse_rms)};
  }
  void check() const {
    const int64_t rows = carried.dim(0), width = carried.dim(1);
    expect(carried.rank == 2 && y.is(carried.dtype, {rows, width}), "y matches what is carried");
    expect(!sum || sum.is(carried.dtype, {rows, width}), "sum matches what is carried");
    expect(bool(place) == bool(expert_weights), "choices have weights and places");
    expect(branch.is(carried.dtype, {place ? place.count() : rows, width}), "the branch has the rows, or k for each");
    expect(!place || place.is(DType::i32, {rows, place.dim(1)}), "places are i32");
    expect(!place || expert_weights.is(wide(carried.dtype), {rows, place.dim(1)}), "one weight per choice");
    expect(weight.is(carried.dtype, {width}), "one weight per column");
    expect(!inverse_rms || inverse_rms.is(wide(carried.dtype), {rows}), "one inverse rms per row");
    expect(!y.data || (y.data != sum.data && (!place || (y.data != branch.data && y.data != carried.data))),
           "results lie apart from what is still read");
  }
};

FULGUR_DECLARE_OPERATOR(residual_norm, ResidualNorm)

}  // namespace fulgur
