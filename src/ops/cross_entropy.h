// loss += scale * sum over rows of -log softmax(logits)[target], and the gradient in place of the logits.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct CrossEntropy {
  Tensor loss;     // f64 [1], accumulated: rows ascending
  Tensor logits;   // wide [rows, vocab], overwritten by the gradient
  Tensor targets;  // i32 [rows]; -1: the row does not count, its gradient is zero
  double scale;    // 1 / rows that count, over the whole step and all ranks

  auto operands() const { return std::tuple{inout(loss), inout(logits), in(targets)}; }
  void check() const {
    expect(loss.is(DType::f64, {1}), "the loss is f64");
    expect(logits.rank == 2 && logits.dtype == wide(logits.dtype), "logits are wide");
    expect(targets.is(DType::i32, {logits.dim(0)}), "one target per row");
  }
};

FULGUR_DECLARE_OPERATOR(cross_entropy, CrossEntropy)

}  // namespace fulgur
