// Gathers rows of the table; its gradient adds them back: the rows of one token in their order, or, of a token with
// many, pieces of them in their order, each piece summed from zero. No two threads write one place.
//
// The first operator of a forward pass, so it does not follow the kernel before (device/launch.cuh): once it runs, all
// that was written to weights is seen, and products after it may read weights before they wait.
#include <algorithm>

#include "ops/cuda/gather.cuh"
#include "ops/cuda/long_lists.cuh"
#include "ops/embedding.h"

namespace fulgur::cuda {
namespace {

// The rows of one token, and where there are many the sums of their pieces.
template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads, 4)
    add_takers(Rows<float> dtable, Rows<const T> dy, TakerLists takers, Pieces pieces) {
  __shared__ int32_t ordered[kThreads / 32][kListed];
  const int64_t number = row_of_thread();
  if (number >= *takers.busy_rows) return;
  const int64_t token = takers.busy[number], width = dy.width;
  const int32_t count = takers.count[token], *const listed = takers.listed + token * kListed;
  const int32_t first_piece = listed[0], end_piece = first_piece + (count + kPieceTakers - 1) / kPieceTakers;
  int32_t(&mine)[kListed] = ordered[(threadIdx.y * blockDim.x + threadIdx.x) / 32];
  if (count <= kListed) order_takers(mine, listed, count);
  for (int64_t c = int64_t(threadIdx.x) * kChunk; c < width; c += int64_t(blockDim.x) * kChunk) {
    float sum[1][kChunk];
    load<kAligned>(sum[0], dtable[token] + c, width - c);
    if (count <= kListed) {
      add_listed<kAligned, 4>(sum, dy, mine, count, c, 0);
    } else {
#pragma unroll 4
      for (int32_t piece = first_piece; piece < end_piece; ++piece) {
        float part[kChunk];
        load<true>(part, pieces.sums + piece * pieces.pitch + c, kChunk);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) sum[0][i] += part[i];
      }
    }
    store<kAligned>(dtable[token] + c, sum[0], width - c);
  }
}

}  // namespace

void embedding(Stream& stream, const Embedding& op) {
  with_cuda_type(op.y.dtype,
                 [&]<class T>() { gather<T>(stream, "embedding", op.y, op.table.values, op.tokens, false, false); });
}

void embedding_backward(Stream& stream, const EmbeddingBackward& op) {
  const int64_t rows = op.dy.dim(0), width = op.dy.dim(1);
  with_cuda_type(op.dy.dtype, [&]<class T>() {
    const Takers takers(stream, "embedding_backward", op.tokens.elements<int32_t>(), rows, op.dtable.dim(0), true);
    const LongLists lists(stream, "embedding_backward", takers.lists, width);
    const RowBlocks blocks(std::min(rows, op.dtable.dim(0)), divide_up(width, kChunk));
    with_flag(aligned(op.dtable, op.dy), [&]<bool kAligned>() {
      lists.sum<kAligned, T>(stream, "embedding_backward", rows_of<const T>(op.dy));
      launch_blocks(stream, "embedding_backward", blocks.blocks, blocks.threads, add_takers<kAligned, T>,
                    rows_of<float>(op.dtable), rows_of<const T>(op.dy), takers.lists, lists.pieces);
    });
  });
}

}  // namespace fulgur::cuda
