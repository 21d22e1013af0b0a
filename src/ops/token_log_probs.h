// log_probs[row] = logits[row][token] - log(sum of exp(logits[row])): how likely the model holds a given token.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct TokenLogProbs {
  Tensor log_probs;  // wide [rows], natural logarithms
  Tensor logits;     // wide [rows, vocab]
  Tensor tokens;     // i32 [rows], each of the vocabulary

  auto operands() const { return std::tuple{out(log_probs), in(logits), in(tokens)}; }
  void check() const {
    const int64_t rows = logits.dim(0);
    expect(logits.rank == 2 && logits.dtype == wide(logits.dtype), "logits are wide");
    expect(log_probs.is(logits.dtype, {rows}) && tokens.is(DType::i32, {rows}), "one token and one logarithm per row");
  }
};

FULGUR_DECLARE_OPERATOR(token_log_probs, TokenLogProbs)

}  // namespace fulgur
