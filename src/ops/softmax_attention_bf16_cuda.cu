// Softmax attention forward in bf16, on the matrix unit.
#include "ops/cuda/softmax_forward.cuh"
#include "ops/cuda/softmax_kernels.h"

namespace fulgur::cuda {

void softmax_attention_bf16(Stream& stream, const SoftmaxAttention& op) {
  const int64_t width = op.q.dim(2);
  if (width <= 32) launch_softmax_forward<bf16, 32>(stream, op);
  else if (width <= 64) launch_softmax_forward<bf16, 64>(stream, op);
  else launch_softmax_forward<bf16, 128>(stream, op);
}

}  // namespace fulgur::cuda
