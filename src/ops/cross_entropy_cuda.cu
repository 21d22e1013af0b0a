// A block a row: its greatest logit and sum of exponentials in one walk, then the gradient. The order of every sum
// depends on the width alone; rows' losses are added in the order of rows. Blocks are as large as may be: the rows that
// the card has at hand at once are then few enough to be found in its second cache by the second walk.
#include "ops/cross_entropy.h"
#include "ops/cuda/ordered_sum.cuh"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kRowThreads = 1024;

// The sum of exp(x - greatest).
struct Exponentials {
  float greatest, sum;
  __device__ void join(const Exponentials& other) {
    const float most = fmaxf(greatest, other.greatest);
    // -infinity - -infinity is no number; of a sum of nothing nothing is left.
    sum = (sum == 0 ? 0 : sum * expf(greatest - most)) + (other.sum == 0 ? 0 : other.sum * expf(other.greatest - most));
    greatest = most;
  }
};

// Of a whole block's threads, in all of them.
__device__ Exponentials joined(Exponentials mine) {
  __shared__ Exponentials warps[kRowThreads / 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
    mine.join({__shfl_xor_sync(kAllLanes, mine.greatest, step), __shfl_xor_sync(kAllLanes, mine.sum, step)});
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
  __syncthreads();
  mine = warps[0];
  for (int warp = 1; warp < kRowThreads / 32; ++warp) mine.join(warps[warp]);
  return mine;
}

template <bool kAligned>
__device__ Exponentials walk(const float* row, int64_t width) {
  Exponentials all{-INFINITY, 0};
  for (int64_t c = int64_t(threadIdx.x) * kChunk; c < width; c += kRowThreads * kChunk) {
    const int64_t left = width - c;
    float x[kChunk], most = all.greatest;
    load<kAligned>(x, row + c, left);
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (i < left) most = fmaxf(most, x[i]);
    if (most == -INFINITY) continue;
    float sum = all.sum == 0 ? 0 : all.sum * expf(all.greatest - most);
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (i < left) sum += expf(x[i] - most);
    all = {most, sum};
  }
  return joined(all);
}

template <bool kAligned, class G>
__global__ void __launch_bounds__(kRowThreads)
    finish(double* losses, Rows<G> gradient, Rows<const float> logits, const int32_t* targets, const double* scales) {
  const int64_t row = block_index(), width = logits.width;
  if (row >= logits.count) return;
  const double scale = *scales;
  const int32_t target = targets[row];
  const bool known = target >= 0 && target < width;
  Exponentials all{0, 1};
  float own = 0;
  if (target != -1) {
    all = walk<kAligned>(logits[row], width);
    own = known ? logits[row][target] : nanf("");  // a target that is no token makes the loss NaN
    __syncthreads();                               // before the gradient may take the logits' place
  }
  const float factor = target == -1 ? 0 : float(scale / double(all.sum));
  for (int64_t c = int64_t(threadIdx.x) * kChunk; c < width; c += kRowThreads * kChunk) {
    float x[kChunk];
    load<kAligned>(x, logits[row] + c, width - c);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float power = target == -1 ? 0 : expf(x[i] - all.greatest);
      x[i] = c + i == target ? float((double(power) / double(all.sum) - 1) * scale) : power * factor;
    }
    store<kAligned>(gradient[row] + c, x, width - c);
  }
  if (threadIdx.x == 0)
    losses[row] = target == -1 ? 0 : scale * (log(double(all.sum)) + (double(all.greatest) - double(own)));
}

struct Loss {
  const double* losses;
  __device__ double operator()(int64_t row) const { return losses[row]; }
};

}  // namespace

void cross_entropy(Stream& stream, const CrossEntropy& op) {
  const Tensor to = op.gradient ? op.gradient : op.logits;
  with_cuda_type(to.dtype, [&]<class G>() {
    const Rows<const float> logits = rows_of<const float>(op.logits);
    const Scratch losses(stream, size_t(logits.count + 1) * sizeof(double));
    with_flag(aligned(op.logits, to), [&]<bool kAligned>() {
      launch_blocks(stream, "cross_entropy", logits.count, dim3(kRowThreads), finish<kAligned, G>, losses.as<double>(),
                    rows_of<G>(to), logits, static_cast<const int32_t*>(op.targets.elements<int32_t>()),
                    static_cast<const double*>(op.scale.elements<double>()));
    });
    add_over_rows(stream, "cross_entropy", op.loss.elements<double>(), logits.count, Loss{losses.as<double>()});
  });
}

}  // namespace fulgur::cuda
