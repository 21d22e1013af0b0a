// The matrix products that operators consist of, as they list them for floors and traces (device/work.h): one-liners in
// the operand structs, the counting here.
#pragma once
#include "device/work.h"
#include "ops/operands.h"

namespace fulgur {

using Products = std::vector<MatrixProduct>;

enum class Store : uint8_t { overwrite, add };

// y = x * w^T and its gradients; w a single matrix, which counts in x's type where it is quantised.
MatrixProduct output_product(Tensor y, Tensor x, const Weight& w);
MatrixProduct input_gradient_product(Tensor dx, Tensor dy, const Weight& w, bool adds);
MatrixProduct weight_gradient_product(Tensor dw, Tensor dy, Tensor x);

// How many experts have rows. Where expert_begin cannot be read (a measuring run, another device): as many as the
// choices can reach.
int64_t busy_experts(Tensor expert_begin, int64_t choices);
// The same products for `choices` rows grouped by expert: one for every busy expert, each of their mean number of rows.
// Rows that a capacity dropped are not counted.
Products expert_products(Products of_all_rows, Tensor expert_begin, int64_t choices);

// One head of lightning attention takes 2 C D + 4 D^2 FLOPs per token forward and 5 C D + 10 D^2 backward with C = 64,
// whatever a kernel does: the masked half of a block is not counted (spec/training.md C.1).
Products lightning_products(Tensor o, int64_t longest);
Products lightning_backward_products(Tensor d_o, int64_t longest);

// Keys that all rows see together. Where positions cannot be read: half of a square of the longest sequence.
double seen_keys(Tensor positions, int64_t longest);
// Positions of the sequences, their last rows included: what is read of their pages.
double known_positions(Tensor positions, Tensor row_begin, int64_t longest);
// Two and five products over the keys that each row sees; a tile is the rows of one block under one KV head.
Products softmax_products(Tensor q, int64_t kv_heads, Tensor positions, int64_t longest);
Products softmax_backward_products(Tensor q, int64_t kv_heads, Tensor positions, int64_t longest);

}  // namespace fulgur
