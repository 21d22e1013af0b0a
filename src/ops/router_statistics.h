// Counts what a layer's router did with the rows of a step: the sums behind the figures of a training step. Whole
// numbers, and sums over rows ascending, so that they do not depend on how a step is cut into micro-batches.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct RouterStatistics {
  Tensor load;     // f64 [experts], accumulated: choices, the dropped ones included
  Tensor dropped;  // f64 [parts], accumulated: dropped choices at position p of n in a window, by floor(p parts / n)
  Tensor entropy_sum;  // f64 [1], accumulated
  Tensor choices;      // i32 [windows, experts]
  Tensor place;        // i32 [rows, k], -1: dropped
  Tensor entropy;      // wide [rows]

  auto operands() const {
    return std::tuple{inout(load), inout(dropped), inout(entropy_sum), in(choices), in(place), in(entropy)};
  }
  void check() const {
    expect(choices.rank == 2 && choices.dtype == DType::i32, "one count per window and expert");
    expect(load.is(DType::f64, {choices.dim(1)}), "one load per expert");
    expect(dropped.is(DType::f64, {dropped.dim(0)}) && dropped.dim(0) > 0, "a window has parts");
    expect(entropy_sum.is(DType::f64, {1}), "the sum of entropies is f64");
    expect(place.is(DType::i32, {entropy.dim(0), place.dim(1)}), "k places per row");
    expect(entropy.is(wide(entropy.dtype), {place.dim(0)}), "one entropy per row");
    expect(choices.dim(0) > 0 && place.dim(0) % choices.dim(0) == 0, "windows fill the rows");
  }
};

FULGUR_DECLARE_OPERATOR(router_statistics, RouterStatistics)

}  // namespace fulgur
