// Gathers rows of the table; its gradient adds them back: the first row of a token adds those of all its rows, in row
// order, so no two threads write one place.
#include "ops/cuda/gather.cuh"
#include "ops/cuda/takers.cuh"
#include "ops/embedding.h"

namespace fulgur::cuda {
namespace {

template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads, 4) add_takers(Rows<float> dtable, Rows<const T> dy, TakerLists takers) {
  constexpr int N = kAtOnce<T>;
  const int64_t row = row_of_thread();
  if (row >= dy.count || takers.arrival[row] < 0) return;
  const int64_t token = takers.indices[row];
  const int32_t* const list = takers.places + takers.begin[token];
  if (list[0] != row) return;
  for (int64_t c = int64_t(threadIdx.x) * N; c < dy.width; c += int64_t(blockDim.x) * N) {
    float sum[N];
    load<kAligned>(sum, dtable[token] + c, dy.width - c);
    add_listed<kAligned>(sum, dy, list, takers.count[token], c);
    store<kAligned>(dtable[token] + c, sum, dy.width - c);
  }
}

}  // namespace

void embedding(Stream& stream, const Embedding& op) {
  expect(!op.table.scales, "the embedding table is not quantised");
  with_cuda_type(op.y.dtype,
                 [&]<class T>() { gather<T>(stream, "embedding", op.y, op.table.values, op.tokens, false); });
}

void embedding_backward(Stream& stream, const EmbeddingBackward& op) {
  const int64_t rows = op.dy.dim(0), width = op.dy.dim(1);
  with_cuda_type(op.dy.dtype, [&]<class T>() {
    const Takers takers(stream, "embedding_backward", op.tokens.elements<int32_t>(), rows, op.dtable.dim(0));
    const RowBlocks blocks(rows, divide_up(width, kAtOnce<T>));
    with_flag(aligned(op.dtable, op.dy), [&]<bool kAligned>() {
      launch_blocks(stream, "embedding_backward", blocks.blocks, blocks.threads, add_takers<kAligned, T>,
                    rows_of<float>(op.dtable), rows_of<const T>(op.dy), takers.lists);
    });
  });
}

}  // namespace fulgur::cuda
