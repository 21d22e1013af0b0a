// Lightning attention's gradients in f32.
#include "ops/cuda/lightning_backward.cuh"
#include "ops/cuda/lightning_kernels.h"

namespace fulgur::cuda {

void lightning_attention_backward_f32(Stream& stream, const LightningAttentionBackward& op) {
  const int64_t width = op.d_o.dim(2);
  if (width <= 32) launch_lightning_backward<float, 32, 32>(stream, op);
  else if (width <= 64) launch_lightning_backward<float, 64, 64>(stream, op);
  else if (has_roomy_blocks()) launch_lightning_backward<float, 128, 64>(stream, op);
  else launch_lightning_backward<float, 128, 32>(stream, op);
}

}  // namespace fulgur::cuda
