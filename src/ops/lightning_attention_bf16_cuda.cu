// Lightning attention forward in bf16, on the matrix unit.
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/lightning_forward.cuh"
#include "ops/cuda/lightning_kernels.h"

namespace fulgur::cuda {
namespace {

// Into how many thread blocks to divide the columns of a head: until three quarters of the processors have work, where
// they run side by side; or as many as make them fit. Every division gives the same bits.
int64_t wanted_parts(int64_t items, int64_t width) {
  if (width > 64 && !has_roomy_blocks()) return 4;
  return has_clusters() ? (3 * processors() / 4 + items - 1) / items : 1;
}

}  // namespace

void lightning_attention_bf16(Stream& stream, const LightningAttention& op) {
  const int64_t width = op.o.dim(2), parts = wanted_parts((op.row_begin.dim(0) - 1) * op.o.dim(1), width);
  if (width <= 32) launch_lightning_forward<bf16, 32, 32>(stream, op);
  else if (width <= 64 && parts == 1) launch_lightning_forward<bf16, 64, 64>(stream, op);
  else if (width <= 64) launch_lightning_forward<bf16, 64, 32>(stream, op);
  else if (parts == 1) launch_lightning_forward<bf16, 128, 128>(stream, op);
  else if (parts == 2) launch_lightning_forward<bf16, 128, 64>(stream, op);
  else launch_lightning_forward<bf16, 128, 32>(stream, op);
}

}  // namespace fulgur::cuda
