// Appends k and v rows to the pages of their sequences.
#include "ops/cuda/rows.cuh"
#include "ops/store_kv.h"

namespace fulgur::cuda {
namespace {

template <class T>
struct Places {
  View<T, 5> pages;
  View<T, 3> k, v;
  const int32_t* row_begin;
  int64_t sequences;
  View<int64_t, 1> positions;
  View<int32_t, 2> table;
};

// The last sequence that begins at or before a row; -1: none.
__device__ int64_t sequence_of(const int32_t* row_begin, int64_t sequences, int64_t row) {
  int64_t low = 0, high = sequences;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (row_begin[middle] > row) high = middle;
    else low = middle + 1;
  }
  return low - 1;
}

template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads) store_rows(Places<T> p) {
  follow();
  const int64_t row = row_of_thread(), width = p.k.shape[2];
  if (row >= p.k.shape[0] || row >= p.row_begin[p.sequences]) return;
  const int chunks = int(divide_up(width, kChunk)), all = int(p.k.shape[1]) * chunks;
  Chunk<T> k{}, v{};
  const auto fetch_heads = [&](int i) {
    const int head = i / chunks, c = i % chunks * kChunk;
    k = fetch<kAligned>(&p.k(row, head, c), width - c), v = fetch<kAligned>(&p.v(row, head, c), width - c);
  };
  if (int(threadIdx.x) < all) fetch_heads(int(threadIdx.x));  // on their way while the page is looked up
  const int64_t sequence = sequence_of(p.row_begin, p.sequences, row), position = p.positions(row);
  if (sequence < 0 || position < 0 || position / kGrid >= p.table.shape[1]) return;
  const int64_t page = p.table(sequence, position / kGrid), at = position % kGrid;
  if (page < 0 || page >= p.pages.shape[0]) return;
  for (int i = int(threadIdx.x); i < all; i += int(blockDim.x)) {
    const int head = i / chunks, c = i % chunks * kChunk;
    put<kAligned>(&p.pages(page, 0, head, at, c), k, width - c);
    put<kAligned>(&p.pages(page, 1, head, at, c), v, width - c);
    if (i + int(blockDim.x) < all) fetch_heads(i + int(blockDim.x));
  }
}

}  // namespace

void store_kv(Stream& stream, const StoreKv& op) {
  with_cuda_type(op.k.dtype, [&]<class T>() {
    const Places<T> p{.pages = op.kv_pages.view<T, 5>(),
                      .k = op.k.view<T, 3>(),
                      .v = op.v.view<T, 3>(),
                      .row_begin = op.row_begin.elements<int32_t>(),
                      .sequences = op.row_begin.dim(0) - 1,
                      .positions = op.positions.view<int64_t, 1>(),
                      .table = op.page_table.view<int32_t, 2>()};
    expect(p.pages.stride[4] == 1 && p.k.stride[2] == 1 && p.v.stride[2] == 1, "the dims of a head lie end to end");
    const RowBlocks blocks(op.k.dim(0), op.k.dim(1) * divide_up(op.k.dim(2), kChunk));
    with_flag(aligned(op.kv_pages, op.k, op.v), [&]<bool kAligned>() {
      launch_following(stream, "store_kv", blocks.blocks, blocks.threads, store_rows<kAligned, T>, p);
    });
  });
}

}  // namespace fulgur::cuda
