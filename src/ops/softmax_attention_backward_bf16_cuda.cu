// Softmax attention's gradients in bf16.
#include "ops/cuda/softmax_backward.cuh"
#include "ops/cuda/softmax_kernels.h"

namespace fulgur::cuda {

void softmax_attention_backward_bf16(Stream& stream, const SoftmaxAttentionBackward& op) {
  const int64_t width = op.q.dim(2);
  if (width <= 32) launch_softmax_backward<bf16, 32>(stream, op);
  else if (width <= 64) launch_softmax_backward<bf16, 64>(stream, op);
  else if (has_roomy_blocks()) launch_softmax_backward<bf16, 128>(stream, op);
  else launch_softmax_backward<bf16, 128, 1>(stream, op);
}

}  // namespace fulgur::cuda
