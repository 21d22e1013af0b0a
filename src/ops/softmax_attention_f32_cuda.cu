// Softmax attention forward in f32: fused multiply-adds throughout.
#include "ops/cuda/softmax_forward.cuh"
#include "ops/cuda/softmax_kernels.h"

namespace fulgur::cuda {

void softmax_attention_f32(Stream& stream, const SoftmaxAttention& op) {
  const int64_t width = op.q.dim(2);
  if (width <= 32) launch_softmax_forward<float, 32>(stream, op);
  else if (width <= 64) launch_softmax_forward<float, 64>(stream, op);
  else launch_softmax_forward<float, 128>(stream, op);
}

}  // namespace fulgur::cuda
