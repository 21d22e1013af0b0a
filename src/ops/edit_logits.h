// Changes single logits before a draw: penalties and biases. A positive logit is divided by the divisor, any other
// multiplied by it (the repetition penalty of Keskar et al. 2019, arXiv 1909.05858, in the form that treats both signs
// alike); then the offset is added. -infinity stays what it is unless the offset is NaN.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct EditLogits {
  Tensor logits;    // f32 [rows, vocab], changed in place
  Tensor places;    // i32 [edits, 2]: row and id, no place twice
  Tensor divisors;  // f32 [edits], positive
  Tensor offsets;   // f32 [edits]

  auto operands() const { return std::tuple{inout(logits), in(places), in(divisors), in(offsets)}; }
  int64_t bytes() const { return 2 * offsets.bytes() + places.bytes() + divisors.bytes() + offsets.bytes(); }
  void check() const {
    const int64_t edits = places.dim(0);
    expect(logits.dtype == DType::f32 && logits.rank == 2, "logits are f32 rows");
    expect(places.is(DType::i32, {edits, 2}), "a place is a row and an id");
    expect(divisors.is(DType::f32, {edits}) && offsets.is(DType::f32, {edits}), "one divisor and one offset per place");
  }
};

FULGUR_DECLARE_OPERATOR(edit_logits, EditLogits)

}  // namespace fulgur
