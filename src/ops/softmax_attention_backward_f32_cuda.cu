// Softmax attention's gradients in f32.
#include "ops/cuda/softmax_backward.cuh"
#include "ops/cuda/softmax_kernels.h"

namespace fulgur::cuda {

void softmax_attention_backward_f32(Stream& stream, const SoftmaxAttentionBackward& op) {
  const int64_t width = op.q.dim(2);
  if (width <= 32) launch_softmax_backward<float, 32>(stream, op);
  else if (width <= 64) launch_softmax_backward<float, 64>(stream, op);
  else launch_softmax_backward<float, 128>(stream, op);
}

}  // namespace fulgur::cuda
