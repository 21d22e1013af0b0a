// The z-loss of a layer's router: scale * sum over rows of (log of the sum of exp(logit))^2, which keeps logits small
// (spec/model.md 8.10).
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct RouterZLoss {
  Tensor loss;           // f64 [1], accumulated: rows ascending
  Tensor dlogits;        // wide [rows, experts], accumulated
  Tensor log_sum_exp;    // wide [rows]
  Tensor probabilities;  // wide [rows, experts]
  double scale;          // z / rows of the whole step

  auto operands() const { return std::tuple{inout(loss), inout(dlogits), in(log_sum_exp), in(probabilities)}; }
  void check() const {
    expect(loss.is(DType::f64, {1}), "the loss is f64");
    expect(probabilities.rank == 2 && dlogits.same_shape(probabilities) && dlogits.dtype == probabilities.dtype,
           "one gradient per probability");
    expect(log_sum_exp.is(dlogits.dtype, {dlogits.dim(0)}), "one log-sum-exp per row");
  }
};

FULGUR_DECLARE_OPERATOR(router_z_loss, RouterZLoss)

}  // namespace fulgur
