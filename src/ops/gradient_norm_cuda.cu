// The CPU twin's order and so its bits: a lane is a thread, a piece sixteen of them. Then one block adds the pieces.
#include "ops/cuda/rows.cuh"
#include "ops/cuda/scratch.cuh"
#include "ops/gradient_norm.h"

namespace fulgur::cuda {
namespace {

constexpr int kLanes = 16, kFetched = 16;  // of a piece; elements of a lane that are under way together

__global__ void __launch_bounds__(kThreads) square_pieces(double* pieces, const float* gradient, int64_t count) {
  const int64_t piece = block_index() * (kThreads / kLanes) + threadIdx.x / kLanes;
  const int64_t end = min((piece + 1) * kNormPiece, count);
  double sum = 0;
  for (int64_t i = piece * kNormPiece + threadIdx.x % kLanes; i < end; i += kFetched * kLanes) {
    float x[kFetched];
#pragma unroll
    for (int k = 0; k < kFetched; ++k) x[k] = i + k * kLanes < end ? gradient[i + k * kLanes] : 0;
#pragma unroll
    for (int k = 0; k < kFetched; ++k) sum += double(x[k]) * double(x[k]);
  }
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) sum += __shfl_xor_sync(kAllLanes, sum, half);
  if (threadIdx.x % kLanes == 0 && piece * kNormPiece < count) pieces[piece] = sum;
}

__global__ void __launch_bounds__(kThreads) add_pieces_in_order(double* norm, const double* pieces, int64_t count) {
  __shared__ double found[kThreads];
  double total = 0;
  for (int64_t first = 0; first < count; first += kThreads) {
    if (first + threadIdx.x < count) found[threadIdx.x] = pieces[first + threadIdx.x];
    __syncthreads();
    const int64_t here = min(count - first, int64_t(kThreads));
    if (threadIdx.x == 0)
      for (int64_t piece = 0; piece < here; ++piece) total += found[piece];
    __syncthreads();
  }
  if (threadIdx.x == 0) *norm = sqrt(total);
}

}  // namespace

void gradient_norm(Stream& stream, const GradientNorm& op) {
  with_cuda_type(op.gradient.dtype, [&]<class T>() {
    const int64_t count = op.gradient.count(), pieces = divide_up(count, kNormPiece);
    const Scratch scratch(stream, size_t(pieces + 1) * sizeof(double));
    launch_blocks(stream, "gradient_norm", divide_up(pieces, kThreads / kLanes), dim3(kThreads), square_pieces,
                  scratch.as<double>(), static_cast<const float*>(op.gradient.elements<float>()), count);
    launch_blocks(stream, "gradient_norm", 1, dim3(kThreads), add_pieces_in_order, op.norm.elements<double>(),
                  static_cast<const double*>(scratch.as<double>()), pieces);
  });
}

}  // namespace fulgur::cuda
