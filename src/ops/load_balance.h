// The auxiliary loss of a layer's router (spec/model.md 8.10): per window of consecutive rows, (alpha / E) * sum over
// experts of f_e * m_e, with f_e = choices of expert e per row, the dropped ones included, and m_e = its mean
// probability in this layer; the mean over the step's windows. The gradient goes through m alone.
//
// Form `report` counts f in this layer. Form `transformers`, coef * E * sum of f_e * m_e with both taken over the rows
// of all layers, is the sum over layers of the same expression with f counted over all of them and
// alpha = coef * E^2 / layers.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct LoadBalance {
  Tensor loss;           // f64 [1], accumulated: windows in order
  Tensor dlogits;        // wide [rows, experts], accumulated
  Tensor choices;        // i32 [layers, windows, experts]: of the layers that f is counted over
  Tensor probabilities;  // wide [rows, experts]
  double scale;          // alpha / windows of the whole step

  auto operands() const { return std::tuple{inout(loss), inout(dlogits), in(choices), in(probabilities)}; }
  void check() const {
    expect(loss.is(DType::f64, {1}), "the loss is f64");
    expect(probabilities.rank == 2 && dlogits.same_shape(probabilities) && dlogits.dtype == probabilities.dtype,
           "one gradient per probability");
    expect(choices.is(DType::i32, {choices.dim(0), choices.dim(1), dlogits.dim(1)}) && choices.dim(0) > 0,
           "one count per layer, window and expert");
    expect(choices.dim(1) > 0 && dlogits.dim(0) % choices.dim(1) == 0, "windows fill the rows");
  }
};

FULGUR_DECLARE_OPERATOR(load_balance, LoadBalance)

}  // namespace fulgur
