// The Euclidean norm of a flat gradient: f64 sums over fixed pieces of 65,536 elements, added in piece order.
#pragma once
#include "ops/operator.h"

namespace fulgur {

inline constexpr int64_t kNormPiece = 65536;  // elements

struct GradientNorm {
  Tensor norm;      // f64 [1]
  Tensor gradient;  // wide [elements]

  auto operands() const { return std::tuple{out(norm), in(gradient)}; }
  void check() const {
    expect(norm.is(DType::f64, {1}), "the norm is f64");
    expect(gradient.rank == 1 && gradient.dtype == wide(gradient.dtype) && gradient.dense(),
           "the gradient is flat and wide");
  }
};

FULGUR_DECLARE_OPERATOR(gradient_norm, GradientNorm)

}  // namespace fulgur
