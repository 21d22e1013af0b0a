// Gathers rows; its gradient sums for every row of dx the rows of dy that were taken from it, in their order.
#include "ops/cuda/gather.cuh"
#include "ops/cuda/takers.cuh"
#include "ops/take_rows.h"

namespace fulgur::cuda {
namespace {

constexpr int kSide = 2;  // chunks of a thread, side by side

// A row has as many takers as a token has experts; one with more than are listed looks for them among all indices.
template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads, 8 / sizeof(T)) sum_takers(Rows<T> dx, Rows<const T> dy, TakerLists takers) {
  __shared__ int32_t ordered[kThreads / 32][kListed];
  const int64_t row = row_of_thread();
  if (row >= dx.count) return;
  const int32_t count = takers.count[row];
  int32_t(&mine)[kListed] = ordered[(threadIdx.y * blockDim.x + threadIdx.x) / 32];
  if (count <= kListed) order_takers(mine, takers.listed + row * kListed, count);
  const int64_t step = int64_t(blockDim.x) * kChunk;
  for (int64_t c = int64_t(threadIdx.x) * kChunk; c < dx.width; c += kSide * step) {
    float sums[kSide][kChunk] = {};
    if (count <= kListed) {
      add_listed<kAligned, 2>(sums, dy, mine, count, c, step);
    } else {
      for (int64_t i = 0; i < takers.taken; ++i) {
        const int32_t taker = int32_t(i);
        if (takers.indices[i] == row) add_listed<kAligned, 1>(sums, dy, &taker, 1, c, step);
      }
    }
#pragma unroll
    for (int k = 0; k < kSide; ++k) store<kAligned>(dx[row] + c + k * step, sums[k], dx.width - c - k * step);
  }
}

}  // namespace

void take_rows(Stream& stream, const TakeRows& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() { gather<T>(stream, "take_rows", op.y, op.x, op.rows, true, true); });
}

void take_rows_backward(Stream& stream, const TakeRowsBackward& op) {
  const int64_t rows = op.dx.dim(0), width = op.dx.dim(1);
  with_cuda_type(op.dy.dtype, [&]<class T>() {
    const Takers takers(stream, "take_rows_backward", op.rows.elements<int32_t>(), op.dy.dim(0), rows, false);
    const RowBlocks blocks(rows, divide_up(width, kSide * kChunk));
    with_flag(aligned(op.dx, op.dy), [&]<bool kAligned>() {
      launch_blocks(stream, "take_rows_backward", blocks.blocks, blocks.threads, sum_takers<kAligned, T>,
                    rows_of<T>(op.dx), rows_of<const T>(op.dy), takers.lists);
    });
  });
}

}  // namespace fulgur::cuda
