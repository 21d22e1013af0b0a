// y = sigmoid(gate) * x / sqrt(mean(x^2) + eps) * weight: the output gate of a lightning layer (spec/model.md 2.1.6).
//
// The norm spans the heads of every tensor rank, so it is handed sums per head and row: lightning_attention wrote the
// squares of this rank's heads, the mesh gathered the rest, and they are added in head order. Backward works the same
// way with the products of gated_rms_norm_products.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct GatedRmsNorm {
  Tensor y, x, gate;    // [rows, width of this rank]
  Tensor weight;        // [width of this rank]
  Tensor squares;       // wide [heads of all ranks, rows]: sum of x^2 of each head
  int64_t whole_width;  // of all ranks
  double eps;
  Tensor inverse_rms = {};  // wide [rows], given when training

  auto operands() const { return std::tuple{out(y), in(x), in(gate), in(weight), in(squares), out(inverse_rms)}; }
  void check() const {
    expect(x.rank == 2 && y.is(x.dtype, {x.dim(0), x.dim(1)}) && gate.is(x.dtype, {x.dim(0), x.dim(1)}),
           "y and gate match x");
    expect(weight.is(x.dtype, {x.dim(1)}), "one weight per column");
    expect(squares.is(wide(x.dtype), {squares.dim(0), x.dim(0)}), "one sum of squares per head and row");
    expect(whole_width >= x.dim(1) && whole_width % squares.dim(0) == 0, "heads divide the whole width");
    expect(!inverse_rms || inverse_rms.is(wide(x.dtype), {x.dim(0)}), "one inverse rms per row");
  }
};

// products[head, row] = sum over the head's columns of dy * sigmoid(gate) * weight * x.
struct GatedRmsNormProducts {
  Tensor products;     // wide [heads of this rank, rows]
  Tensor dy, x, gate;  // [rows, width of this rank]
  Tensor weight;       // [width of this rank]

  auto operands() const { return std::tuple{out(products), in(dy), in(x), in(gate), in(weight)}; }
  void check() const {
    expect(x.rank == 2 && dy.is(x.dtype, {x.dim(0), x.dim(1)}) && gate.is(x.dtype, {x.dim(0), x.dim(1)}),
           "dy and gate match x");
    expect(weight.is(x.dtype, {x.dim(1)}), "one weight per column");
    expect(products.is(wide(x.dtype), {products.dim(0), x.dim(0)}) && x.dim(1) % products.dim(0) == 0,
           "one product per head and row");
  }
};

struct GatedRmsNormBackward {
  Tensor dx, dgate;     // [rows, width of this rank], overwritten; dx may be x, dgate may be gate
  Tensor dweight;       // wide [width of this rank], accumulated: rows ascending; on CUDA in pieces of 32 rows, pieces
                        // ascending
  Tensor dy, x, gate;   // [rows, width of this rank]
  Tensor weight;        // [width of this rank]
  Tensor inverse_rms;   // wide [rows], as forward left it
  Tensor products;      // wide [heads of all ranks, rows], added in head order
  int64_t whole_width;  // of all ranks

  auto operands() const {
    return std::tuple{out(dx),  out(dgate), inout(dweight),  in(dy),      in(x),
                      in(gate), in(weight), in(inverse_rms), in(products)};
  }
  void check() const {
    expect(x.rank == 2 && dx.is(x.dtype, {x.dim(0), x.dim(1)}) && dgate.is(x.dtype, {x.dim(0), x.dim(1)}) &&
               dy.is(x.dtype, {x.dim(0), x.dim(1)}) && gate.is(x.dtype, {x.dim(0), x.dim(1)}),
           "gradients and gate match x");
    expect(weight.is(x.dtype, {x.dim(1)}) && dweight.is(wide(x.dtype), {x.dim(1)}), "one weight per column");
    expect(inverse_rms.is(wide(x.dtype), {x.dim(0)}), "one inverse rms per row");
    expect(products.is(wide(x.dtype), {products.dim(0), x.dim(0)}), "one product per head and row");
  }
};

FULGUR_DECLARE_OPERATOR(gated_rms_norm, GatedRmsNorm)
FULGUR_DECLARE_OPERATOR(gated_rms_norm_products, GatedRmsNormProducts)
FULGUR_DECLARE_OPERATOR(gated_rms_norm_backward, GatedRmsNormBackward)

}  // namespace fulgur
