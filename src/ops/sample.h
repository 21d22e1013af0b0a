// Draws one token per row: temperature, then top-k, typical-p, top-p and min-p, then the draw in rank order (by id
// where none of the four is given). The uniform number is Philox keyed by (seed, sequence, position), so it depends on
// neither the batch nor earlier draws.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct Sample {
  Tensor tokens;       // i32 [rows]
  Tensor logits;       // f32 [rows, vocab]
  Tensor temperature;  // f32 [rows]; 0: the greatest logit, the lowest id among equals
  Tensor top_k;        // i32 [rows]; 0: all
  Tensor typical_p;    // f32 [rows], in (0, 1]: the fewest tokens that reach it, those first whose surprise -log p is
                       // nearest to its mean, the entropy (Meister et al. 2022, arXiv 2202.00666)
  Tensor top_p;        // f32 [rows], in (0, 1]: the fewest tokens whose probability reaches it
  Tensor min_p;        // f32 [rows], in [0, 1]: tokens below min_p * the greatest probability are left out
  Tensor keys;         // i64 [rows, 3]: seed, sequence, position
  Tensor suppressed = {};  // i32 [tokens]: ids that are never drawn

  auto operands() const {
    return std::tuple{out(tokens), in(logits), in(temperature), in(top_k),     in(typical_p),
                      in(top_p),   in(min_p),  in(keys),        in(suppressed)};
  }
  void check() const {
    const int64_t rows = logits.dim(0);
    expect(logits.is(DType::f32, {rows, logits.dim(1)}), "logits are f32");
    expect(tokens.is(DType::i32, {rows}) && top_k.is(DType::i32, {rows}), "one token and one k per row");
    expect(temperature.is(DType::f32, {rows}) && top_p.is(DType::f32, {rows}) && min_p.is(DType::f32, {rows}),
           "one temperature, one p and one minimum per row");
    expect(typical_p.is(DType::f32, {rows}), "one typical p per row");
    expect(keys.is(DType::i64, {rows, 3}), "a key is seed, sequence and position");
    expect(!suppressed || (suppressed.rank == 1 && suppressed.dtype == DType::i32), "suppressed ids are i32");
  }
};

FULGUR_DECLARE_OPERATOR(sample, Sample)

}  // namespace fulgur
