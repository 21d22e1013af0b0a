// A thread block a row: its greatest logit, then the sum of exponentials; both in an order that the width alone
// decides.
#include "ops/cuda/rows.cuh"
#include "ops/token_log_probs.h"

namespace fulgur::cuda {
namespace {

// What `join` makes of every thread's value.
template <class Join>
__device__ float joined(float value, float (&warps)[kThreads / 32], const Join& join) {
  for (int step = 16; step > 0; step /= 2) value = join(value, __shfl_xor_sync(kAllLanes, value, step));
  __syncthreads();  // of an earlier call
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = warps[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) value = join(value, warps[warp]);
  return value;
}

__global__ void log_probs_of_rows(float* log_probs, Rows<const float> logits, const int32_t* tokens) {
  __shared__ float warps[kThreads / 32];
  const int64_t row = block_index();
  if (row >= logits.count) return;
  const float* const from = logits[row];
  float greatest = from[0];
  for (int64_t i = threadIdx.x; i < logits.width; i += kThreads) greatest = fmaxf(greatest, from[i]);
  greatest = joined(greatest, warps, [](float a, float b) { return fmaxf(a, b); });
  float sum = 0;
  for (int64_t i = threadIdx.x; i < logits.width; i += kThreads) sum += expf(from[i] - greatest);
  sum = joined(sum, warps, [](float a, float b) { return a + b; });
  // A token outside of the vocabulary is not read back: its row becomes NaN.
  const bool known = tokens[row] >= 0 && tokens[row] < logits.width;
  if (threadIdx.x == 0) log_probs[row] = known ? (from[tokens[row]] - greatest) - logf(sum) : nanf("");
}

}  // namespace

void token_log_probs(Stream& stream, const TokenLogProbs& op) {
  if (op.logits.dtype != DType::f32)
    fail(ErrorKind::unsupported, "CUDA computes in f32 and bf16, not in f64: use --device cpu");
  launch_blocks(stream, "token_log_probs", op.logits.dim(0), dim3(kThreads), log_probs_of_rows,
                op.log_probs.elements<float>(), rows_of<const float>(op.logits),
                static_cast<const int32_t*>(op.tokens.elements<int32_t>()));
}

}  // namespace fulgur::cuda
