// Gathers rows; its gradient sums for every row of dx the rows of dy that were taken from it, in their order.
#include "ops/cuda/gather.cuh"
#include "ops/cuda/takers.cuh"
#include "ops/take_rows.h"

namespace fulgur::cuda {
namespace {

template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads, 4) sum_takers(Rows<T> dx, Rows<const T> dy, TakerLists takers) {
  constexpr int N = kAtOnce<T>;
  const int64_t row = row_of_thread();
  if (row >= dx.count) return;
  const int32_t count = takers.count[row];
  const int32_t* const list = takers.places + takers.begin[row];
  for (int64_t c = int64_t(threadIdx.x) * N; c < dx.width; c += int64_t(blockDim.x) * N) {
    float sum[N] = {};
    add_listed<kAligned>(sum, dy, list, count, c);
    store<kAligned>(dx[row] + c, sum, dx.width - c);
  }
}

}  // namespace

void take_rows(Stream& stream, const TakeRows& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() { gather<T>(stream, "take_rows", op.y, op.x, op.rows, true); });
}

void take_rows_backward(Stream& stream, const TakeRowsBackward& op) {
  const int64_t rows = op.dx.dim(0), width = op.dx.dim(1);
  with_cuda_type(op.dy.dtype, [&]<class T>() {
    const Takers takers(stream, "take_rows_backward", op.rows.elements<int32_t>(), op.dy.dim(0), rows);
    const RowBlocks blocks(rows, divide_up(width, kAtOnce<T>));
    with_flag(aligned(op.dx, op.dy), [&]<bool kAligned>() {
      launch_blocks(stream, "take_rows_backward", blocks.blocks, blocks.threads, sum_takers<kAligned, T>,
                    rows_of<T>(op.dx), rows_of<const T>(op.dy), takers.lists);
    });
  });
}

}  // namespace fulgur::cuda
