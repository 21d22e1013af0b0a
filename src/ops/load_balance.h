// The auxiliary loss of form `report` (spec/model.md 8.10): per window of consecutive rows, (alpha / E) * sum over
// experts of f_e * m_e, with f_e = choices of expert e / rows and m_e = its mean probability; the mean over the step's
// windows. The gradient goes through m alone.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct LoadBalance {
  Tensor loss;           // f64 [1], accumulated: windows in order
  Tensor dlogits;        // wide [rows, experts], accumulated
  Tensor expert_ids;     // i32 [rows, k]
  Tensor probabilities;  // wide [rows, experts]
  int64_t window;        // rows; divides the rows
  double scale;          // alpha / windows of the whole step

  auto operands() const { return std::tuple{inout(loss), inout(dlogits), in(expert_ids), in(probabilities)}; }
  void check() const {
    expect(loss.is(DType::f64, {1}), "the loss is f64");
    expect(probabilities.rank == 2 && dlogits.same_shape(probabilities) && dlogits.dtype == probabilities.dtype,
           "one gradient per probability");
    expect(expert_ids.is(DType::i32, {dlogits.dim(0), expert_ids.dim(1)}), "k experts per row");
    expect(window > 0 && dlogits.dim(0) % window == 0, "windows fill the rows");
  }
};

FULGUR_DECLARE_OPERATOR(load_balance, LoadBalance)

}  // namespace fulgur
