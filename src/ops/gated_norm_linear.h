// y = g w^T with g = gated_rms_norm(x): what a lightning layer does after its attention (spec/model.md 2.1.6). The bits
// are those of gated_rms_norm and linear.
#pragma once
#include "ops/gated_rms_norm.h"
#include "ops/linear.h"

namespace fulgur {

struct GatedNormLinear {
  Tensor y;             // [rows, out]
  Tensor gated;         // [rows, in]: g, as linear_backward wants it, or room for it
  Tensor x, gate;       // [rows, in], and with the four below as gated_rms_norm has them
  Tensor weight;        // [in]
  Tensor squares;       // wide [heads, rows]
  int64_t whole_width;  // of all ranks
  double eps;
  Tensor inverse_rms = {};  // wide [rows], where kept
  Weight w;                 // [out, in]
  bool kept = true;         // whether gated is read afterwards

  GatedRmsNorm norm() const {
    return {.y = gated,
            .x = x,
            .gate = gate,
            .weight = weight,
            .squares = squares,
            .whole_width = whole_width,
            .eps = eps,
            .inverse_rms = inverse_rms};
  }
  Linear product() const { return {.y = y, .x = gated, .w = w}; }
  auto operands() const {
    return std::tuple{out(y),     Operand{&gated, kept ? Access::out : Access::work},
                      in(x),      in(gate),
                      in(weight), in(squares),
                      in(w),      out(inverse_rms)};
  }
  Products products() const { return product().products(); }
  void check() const {
    norm().check(), product().check();
    expect(y.dtype == x.dtype, "y is of the run type");
    expect(kept || !inverse_rms, "the norm is kept where its inverse rms is");
  }
};

FULGUR_DECLARE_OPERATOR(gated_norm_linear, GatedNormLinear)

}  // namespace fulgur
