// Adds what ops/cuda/softmax_decode.cuh makes of the pieces of a row's keys.
#pragma once
#include "ops/cuda/softmax_decode.cuh"

namespace fulgur::cuda {

inline constexpr int kAdders = 8;  // warps of a row and head; each adds every eighth piece, then their sums are added

__device__ inline float largest_of_warp(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, lanes));
  return x;
}

template <int kWidth>
__global__ void __launch_bounds__(32 * kAdders) add_pieces(const __grid_constant__ SoftmaxDecode op) {
  follow();
  constexpr int kColumns = kWidth / 32, kAhead = 8;  // of a thread; pieces asked for before the first is added
  __shared__ float totals[kAdders], sums[kAdders][kWidth];
  const int64_t head = blockIdx.x, row = op.row_of(blockIdx.y);
  if (row < 0) return;
  const int pieces = op.pieces_of(row), warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const float2* const statistics = &op.statistics(row, head, 0);
  const float* const of_pieces = &op.sum(row, head, 0, lane * kColumns);

  float highest = -INFINITY, total = 0, sum[kColumns] = {};
  for (int piece = lane; piece < pieces; piece += 32) highest = fmaxf(highest, statistics[piece].x);
  highest = largest_of_warp(highest);
  for (int first = warp; first < pieces; first += kAhead * kAdders) {
    float2 of[kAhead];
    float ahead[kAhead][kColumns];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int piece = first + i * kAdders;
      of[i] = piece < pieces ? statistics[piece] : float2{-INFINITY, 0};
#pragma unroll
      for (int c = 0; c < kColumns; ++c) ahead[i][c] = piece < pieces ? of_pieces[int64_t(piece) * kWidth + c] : 0;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const float shrink = Exponential<bf16>::of(of[i].x - highest);
      total = fmaf(of[i].y, shrink, total);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sum[c] = fmaf(ahead[i][c], shrink, sum[c]);
    }
  }
  if (lane == 0) totals[warp] = total;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) sums[warp][lane * kColumns + c] = sum[c];
  __syncthreads();

  if (threadIdx.x >= kWidth) return;
  float all = 0, all_total = 0;
#pragma unroll
  for (int i = 0; i < kAdders; ++i) all += sums[i][threadIdx.x], all_total += totals[i];
  op.o(row, head, int64_t(threadIdx.x)) = bf16(all / all_total);
  if (op.log_sum_exp.data && threadIdx.x == 0)
    op.log_sum_exp(head, row) = Exponential<bf16>::natural_log(all_total, highest);
}

}  // namespace fulgur::cuda
