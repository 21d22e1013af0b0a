// One AdamW step (Loshchilov & Hutter 2019, decoupled decay) over a range of the flat buffers: all parameters, or one
// rank's share. One launch. The gradient is scaled by max_norm / norm where norm exceeds max_norm.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct AdamW {
  Tensor weights = {};   // [n], what forward reads: the rounded master; absent when the master itself is read
  Tensor master;         // wide [n]
  Tensor first, second;  // wide [n], the moments
  Tensor gradient;       // wide [n]
  Tensor gradient_norm;  // f64 [1], on the device: no host read before the update
  Tensor not_decayed;    // i64 [ranges, 2], ascending: [begin, end) of elements that weight decay leaves alone
  int64_t step;          // counted from 1
  double learning_rate, beta1, beta2, eps, weight_decay;
  double max_norm;  // 0: the gradient is not clipped

  auto operands() const {
    return std::tuple{out(weights), inout(master),     inout(first),   inout(second),
                      in(gradient), in(gradient_norm), in(not_decayed)};
  }
  void check() const {
    const int64_t n = master.dim(0);
    const DType type = master.dtype;
    expect(master.rank == 1 && type == wide(type), "the master weights are flat and wide");
    expect(first.is(type, {n}) && second.is(type, {n}) && gradient.is(type, {n}),
           "moments and gradient match the master");
    expect(!weights || (weights.is(weights.dtype, {n}) && wide(weights.dtype) == type), "weights match the master");
    expect(gradient_norm.is(DType::f64, {1}), "the norm is f64");
    expect(not_decayed.is(DType::i64, {not_decayed.dim(0), 2}), "ranges have a begin and an end");
    expect(step >= 1, "steps are counted from 1");
  }
};

FULGUR_DECLARE_OPERATOR(adamw, AdamW)

}  // namespace fulgur
