// Which kernel computes softmax attention: decided by element type, head size and GPU, never by the batch, so that a
// row has the same bits in any company. Only rows that need not be summed in order know whether they are their
// sequence's one.
#include "ops/cuda/softmax_kernels.h"

namespace fulgur::cuda {

void softmax_attention(Stream& stream, const SoftmaxAttention& op) {
  expect_kernel("softmax_attention", op.q.dtype, op.q.dim(2));
  if (op.q.count() == 0) return;
  if (is_decode_in_pieces(op)) return softmax_attention_decode(stream, op);
  if (has_softmax_hopper(op.q)) return softmax_attention_hopper(stream, op);
  (op.q.dtype == DType::f32 ? softmax_attention_f32 : softmax_attention_bf16)(stream, op);
}

void softmax_attention_backward(Stream& stream, const SoftmaxAttentionBackward& op) {
  expect_kernel("softmax_attention_backward", op.q.dtype, op.q.dim(2));
  if (op.q.count() == 0) return;
  if (has_softmax_hopper(op.q)) return softmax_attention_backward_hopper(stream, op);
  (op.q.dtype == DType::f32 ? softmax_attention_backward_f32 : softmax_attention_backward_bf16)(stream, op);
}

}  // namespace fulgur::cuda
