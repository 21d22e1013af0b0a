// loss += scale * sum over rows of -log softmax(logits)[target], and the gradient, in place of the logits or beside
// them.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct CrossEntropy {
  Tensor loss;           // f64 [1], accumulated: rows ascending
  Tensor logits;         // wide [rows, vocab], overwritten: by the gradient where there is no other place for it
  Tensor targets;        // i32 [rows]; -1: the row does not count, its gradient is zero
  Tensor scale;          // f64 [1]: 1 / rows that count, over the whole step and all ranks
  Tensor gradient = {};  // run type [rows, vocab], or absent

  auto operands() const { return std::tuple{inout(loss), inout(logits), in(targets), in(scale), out(gradient)}; }
  void check() const {
    expect(loss.is(DType::f64, {1}), "the loss is f64");
    expect(scale.is(DType::f64, {1}), "the scale is f64");
    expect(logits.rank == 2 && logits.dtype == wide(logits.dtype), "logits are wide");
    expect(targets.is(DType::i32, {logits.dim(0)}), "one target per row");
    expect(!gradient || (gradient.same_shape(logits) && wide(gradient.dtype) == logits.dtype),
           "the gradient has the shape of the logits");
  }
};

FULGUR_DECLARE_OPERATOR(cross_entropy, CrossEntropy)

}  // namespace fulgur
