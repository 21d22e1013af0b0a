// Rotary position embedding in NeoX halves over the first rotary_dim dims of each head (spec/model.md 2.2, 8.4):
// (x_i, x_(i+R/2)) turns by position * theta^(-2i/R). The angle is an f64 product at every position; its cosine and
// sine are rounded to f32 (f64 runs keep them).
#pragma once
#include "ops/operator.h"

namespace fulgur {

enum class Turn : uint8_t { forward, back };  // back: the gradient, a turn by the negative angle

struct Rotary {
  Tensor x;            // [rows, heads, head_dim], turned in place; may be a slice of heads
  Tensor positions;    // i64 [rows]
  int64_t rotary_dim;  // even, at most head_dim
  double theta;
  Turn turn = Turn::forward;

  auto operands() const { return std::tuple{inout(x), in(positions)}; }
  void check() const {
    expect(x.rank == 3 && rotary_dim % 2 == 0 && rotary_dim <= x.dim(2), "the turned dims lie inside the head");
    expect(positions.is(DType::i64, {x.dim(0)}), "one position per row");
  }
};

FULGUR_DECLARE_OPERATOR(rotary, Rotary)

}  // namespace fulgur
