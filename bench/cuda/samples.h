// Samples of the attentions' and the products' results computed again in f64 on the CPU: the relative errors of the
// CUDA bench's table.
#pragma once
#include "ops/expert_linear.h"
#include "ops/lightning_attention.h"
#include "ops/linear.h"
#include "ops/softmax_attention.h"

namespace fulgur::bench {

// Over the last rows of the middle sequence, in its first and its last head. The f64 twin starts up to 32,768 rows
// before the end, without a state; half of them are compared where that is not the whole sequence. For a gradient too,
// of which dk and dv need what follows and dq what came before. Decode starts from the state and tail that are stored,
// and may not end a block: those are read after the call. Where sequences begin and leave states behind: the larger of
// that and the error of the middle sequence's states against the recurrence over all of its rows.
double error_of(Stream& stream, const LightningAttention& op);
double error_of(Stream& stream, const LightningAttentionBackward& op);

// Rows spread over the last sequence, in the first head; with pages, its last row.
double error_of(Stream& stream, const SoftmaxAttention& op);
double error_of(Stream& stream, const SoftmaxAttentionBackward& op);

// Some rows of each result; dw was zero before the call. Of experts one row each, or the gradients of the first and the
// last.
double error_of(Stream& stream, const Linear& op);
double error_of(Stream& stream, const LinearBackward& op);
double error_of(Stream& stream, const ExpertLinear& op);
double error_of(Stream& stream, const ExpertLinearBackward& op);

}  // namespace fulgur::bench
