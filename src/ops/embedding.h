// y[row] = table[tokens[row]].
//
// A token outside [0, vocab) breaks the promise on the CPU. On CUDA, where it is not read back, its row is NaN, and
// backward leaves its row of dy out.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct Embedding {
  Tensor y;       // [rows, width]
  Tensor tokens;  // i32 [rows], each in [0, vocab)
  Weight table;   // [vocab, width]

  auto operands() const { return std::tuple{out(y), in(tokens), in(table)}; }
  int64_t bytes() const { return y.bytes() + tokens.bytes() + y.count() * byte_size(table.values.dtype); }
  void check() const {
    expect(!table.scales, "only experts' weights are quantised");
    expect(y.is(table.values.dtype, {tokens.dim(0), table.in()}), "one row of the table per token");
    expect(tokens.is(DType::i32, {y.dim(0)}), "tokens are i32");
  }
};

struct EmbeddingBackward {
  Tensor dtable;  // wide [vocab, width], accumulated: rows of one token in ascending order; on CUDA, where they are
                  // more than 32, in pieces of 64 of them, pieces ascending
  Tensor dy;      // [rows, width]
  Tensor tokens;  // i32 [rows]

  auto operands() const { return std::tuple{inout(dtable), in(dy), in(tokens)}; }
  int64_t bytes() const { return dy.bytes() + tokens.bytes() + 2 * dy.count() * byte_size(dtable.dtype); }
  void check() const {
    expect(dtable.is(wide(dy.dtype), {dtable.dim(0), dy.dim(1)}), "the table's gradient is wide");
    expect(tokens.is(DType::i32, {dy.dim(0)}), "one token per row");
  }
};

FULGUR_DECLARE_OPERATOR(embedding, Embedding)
FULGUR_DECLARE_OPERATOR(embedding_backward, EmbeddingBackward)

}  // namespace fulgur
