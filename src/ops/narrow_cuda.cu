// A chunk of eight elements a thread.
#include "ops/cuda/rows.cuh"
#include "ops/narrow.h"

namespace fulgur::cuda {
namespace {

template <bool kAligned>
__global__ void __launch_bounds__(kThreads) round_elements(bf16* y, const float* x, int64_t count) {
  const int64_t at = (block_index() * kThreads + threadIdx.x) * kChunk, left = count - at;
  if (left <= 0) return;
  float v[kChunk];
  load<kAligned>(v, x + at, left);
  store<kAligned>(y + at, v, left);
}

}  // namespace

void narrow(Stream& stream, const Narrow& op) {
  bf16* const y = op.y.elements<bf16>();
  const float* const x = op.x.elements<float>();
  const int64_t count = op.x.count();
  with_flag(aligned(op.y, op.x), [&]<bool kAligned>() {
    launch_blocks(stream, "narrow", divide_up(count, kThreads * kChunk), dim3(kThreads), round_elements<kAligned>, y, x,
                  count);
  });
}

}  // namespace fulgur::cuda
