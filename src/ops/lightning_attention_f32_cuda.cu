// Lightning attention forward in f32: fused multiply-adds throughout.
#include "ops/cuda/lightning_forward.cuh"
#include "ops/cuda/lightning_kernels.h"

namespace fulgur::cuda {

void lightning_attention_f32(Stream& stream, const LightningAttention& op) {
  const int64_t width = op.o.dim(2);
  if (width <= 32) launch_lightning_forward<float, 32, 32>(stream, op);
  else if (width <= 64) launch_lightning_forward<float, 64, 64>(stream, op);
  else if (has_roomy_blocks()) launch_lightning_forward<float, 128, 64>(stream, op);
  else launch_lightning_forward<float, 128, 32>(stream, op);
}

}  // namespace fulgur::cuda
