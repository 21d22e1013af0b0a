// Weight: a matrix as it is stored. Quantisation ends at this struct: only linear, expert_linear and embedding read
// one.
#pragma once
#include "base/tensor.h"

namespace fulgur {

struct Weight {
  Tensor values;       // [out, in], or [experts, out, in]
  Tensor scales = {};  // f32 [out, in / group_size]; absent when the values are not quantised
  int group_size = 0;  // columns that share a scale
  int64_t out() const { return values.dim(-2); }
  int64_t in() const { return values.dim(-1); }
};

}  // namespace fulgur
