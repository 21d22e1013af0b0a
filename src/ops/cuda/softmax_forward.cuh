// Softmax attention forward: per tile of rows, key blocks of 64 positions with running maximum and total.
#pragma once
#include <cmath>

#include "ops/cuda/softmax_tiles.cuh"
#include "ops/softmax_attention.h"

namespace fulgur::cuda {

// Keys and values (parts 0 and 1): rows of the batch, or pages where those are given.
template <class T>
struct KeyValueRows {
  View<const T, 3> k, v;
  View<const T, 5> pages;
  View<const int32_t, 2> table;

  // Of a block of 64 positions; `begin`: the sequence's first batch row, at position 0.
  __device__ HeadRows<const T> block(int part, int64_t sequence, int64_t begin, int64_t kv_head, int64_t block) const {
    if (pages.data) return {&pages(table(sequence, block), part, kv_head, 0, 0), pages.stride[3]};
    const View<const T, 3>& rows = part == 0 ? k : v;
    return {&rows(begin + block * kGrid, kv_head, 0), rows.stride[0]};
  }
};

template <class T>
struct SoftmaxForward {
  View<T, 3> o;
  View<const T, 3> q;
  KeyValueRows<T> keys;
  View<const int32_t, 1> row_begin;
  View<const int64_t, 1> positions;
  View<float, 2> log_sum_exp;
  int64_t sequences, kv_heads;
  int tiles, chunks;  // of a sequence, and of a tile
  int group;          // heads of a KV head
  float scale;        // from a product to a power of Exponential<T>
};

// The rows of a tile under all heads of a KV head stand on each other, row by row, and are cut into chunks of 64: one
// row of decode is a chunk of its group.
template <class Tiles>
struct ForwardChunk {
  using T = typename Tiles::T;

  const SoftmaxForward<T>& op;
  T* const shared;
  const int64_t sequence, kv_head;
  const RowTile tile;
  const int first;  // of the tile's rows under all heads, those before the chunk
  const int64_t begin = op.row_begin(sequence);
  const int columns = int(op.q.shape[2]), row0 = int(threadIdx.x) / 32 * 16;
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};  // of the lane's rows

  __device__ Tile<T> queries() const { return {shared, Tiles::kStride}; }
  __device__ Tile<T> keys(int stage) const { return {shared + (1 + 2 * stage) * Tiles::kElements, Tiles::kStride}; }
  __device__ Tile<T> values(int stage) const { return keys(stage).from(Tiles::kRows, 0); }
  __device__ Tile<float> weights() const {
    return {reinterpret_cast<float*>(keys(Tiles::kStages).data) + row0 * Tiles::kWeightStride, Tiles::kWeightStride};
  }
  static constexpr size_t kBytes = (1 + 2 * Tiles::kStages) * Tiles::kTileBytes + Tiles::kWeightBytes;

  // Of a row of the chunk: whether it exists, its row in the tile and in the batch, its head.
  __device__ bool has(int row) const { return first + row < tile.rows * op.group; }
  __device__ int tile_row(int row) const { return (first + row) / op.group; }
  __device__ int64_t batch_row(int row) const { return tile.row + tile_row(row); }
  __device__ int64_t head(int row) const { return kv_head * op.group + (first + row) % op.group; }

  __device__ void fetch_queries() const {
    Tiles::fetch(queries(), op.q.data, columns,
                 [&](int row) -> const T* { return has(row) ? &op.q(batch_row(row), head(row), 0) : nullptr; });
  }
  __device__ void fetch_keys(int64_t block) const {
    const int stage = int(block % Tiles::kStages), present = block < tile.block ? Tiles::kRows : tile.first + tile.rows;
    Tiles::fetch(keys(stage), op.keys.block(0, sequence, begin, kv_head, block), present, columns);
    Tiles::fetch(values(stage), op.keys.block(1, sequence, begin, kv_head, block), present, columns);
  }

  // Scores to weights relative to the maximum so far, over exactly the keys that a row may see; zero elsewhere. What
  // was summed before shrinks to the new maximum.
  __device__ __forceinline__ void weigh(typename Tiles::Scores& scores, typename Tiles::Results& sums, bool last) {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int seen = last ? tile.first + tile_row(row0 + 8 * half + lane / 4) + 1 : Tiles::kRows;
      float highest = -INFINITY;
#pragma unroll
      for (int i = 0; i < Tiles::kRows / 4; ++i)
        if (i / 2 * 8 + lane % 4 * 2 + i % 2 < seen) highest = fmaxf(highest, scores[0][i / 2][2 * half + i % 2]);
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 2));
      highest = fmaxf(maximum[half], __fmul_rn(op.scale, highest));
      const float shrink = Exponential<T>::of(__fadd_rn(maximum[half], -highest));
      maximum[half] = highest;

      float added = 0;
#pragma unroll
      for (int i = 0; i < Tiles::kRows / 4; ++i) {
        float& score = scores[0][i / 2][2 * half + i % 2];
        const bool sees = i / 2 * 8 + lane % 4 * 2 + i % 2 < seen;
        score = sees ? Exponential<T>::of(__fmaf_rn(op.scale, score, -highest)) : 0;
        added = __fadd_rn(added, score);
      }
      added = __fadd_rn(added, __shfl_xor_sync(0xffffffff, added, 1));
      added = __fadd_rn(added, __shfl_xor_sync(0xffffffff, added, 2));
      total[half] = __fmaf_rn(total[half], shrink, added);
#pragma unroll
      for (int n = 0; n < Tiles::kWidth / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) sums[0][n][2 * half + e] = __fmul_rn(sums[0][n][2 * half + e], shrink);
    }
  }

  __device__ __forceinline__ void store(typename Tiles::Results& sums) const {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + 8 * half + lane / 4;
      if (!has(row)) continue;
      const float factor = __fdiv_rn(1, total[half]);
      T* const to = &op.o(batch_row(row), head(row), 0);
#pragma unroll
      for (int n = 0; n < Tiles::kWidth / 8; ++n) {
        const int column = 8 * n + lane % 4 * 2;
        // A sum of zeros may be -0, in one way of cutting a sequence and not in another.
        const auto finished = [&](float x) { return __fadd_rn(__fmul_rn(x, factor), 0); };
        if (column < columns)
          store_pair(to + column, finished(sums[0][n][2 * half]), finished(sums[0][n][2 * half + 1]));
      }
      if (op.log_sum_exp.data && lane % 4 == 0)
        op.log_sum_exp(head(row), batch_row(row)) = Exponential<T>::natural_log(total[half], maximum[half]);
    }
  }

  __device__ __forceinline__ void run() {
    typename Tiles::Results sums = {};
    const bool active = has(row0);  // some of the warp's 16 rows
    fetch_queries(), fetch_keys(0);
    for (int64_t block = 0; block <= tile.block; ++block) {
      const int stage = int(block % Tiles::kStages);
      const bool last = block == tile.block;
      wait_for_copies();
      __syncthreads();  // rows are there, and the other stage is free
      if (Tiles::kStages == 2 && !last) fetch_keys(block + 1);
      if (active) {
        typename Tiles::Scores scores = {};
        Tiles::multiply_rows(scores, queries().from(row0, 0), keys(stage));
        weigh(scores, sums, last);
        Tiles::multiply_weights(sums, scores, values(stage), weights());
      }
      if (Tiles::kStages == 1 && !last) {
        __syncthreads();
        fetch_keys(block + 1);
      }
    }
    if (active) store(sums);
  }
};

// Late tiles have the most keys, and come first.
template <class Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, Tiles::kPerProcessor)
    softmax_forward(const __grid_constant__ SoftmaxForward<typename Tiles::T> op) {
  using T = typename Tiles::T;
  int64_t item = blockIdx.x;
  const int64_t kv_head = item % op.kv_heads;
  item /= op.kv_heads;
  const int first = int(item % op.chunks) * Tiles::kRows;
  item /= op.chunks;
  const int64_t sequence = item % op.sequences;
  const RowTile tile = row_tile(op.row_begin, op.positions, sequence, op.tiles - 1 - item / op.sequences);
  if (first >= tile.rows * op.group) return;
  ForwardChunk<Tiles> chunk{op, reinterpret_cast<T*>(dynamic_shared()), sequence, kv_head, tile, first};
  chunk.run();
}

// kWidth: the head size or the next larger one that has a kernel.
template <class T, int kWidth>
void launch_softmax_forward(Stream& stream, const SoftmaxAttention& op) {
  using Tiles = SoftmaxTiles<T, kWidth>;
  expect_vectors(op.o, op.q, op.k, op.v, op.kv_pages);
  const int64_t kv_heads = op.kv_heads(), group = op.q.dim(1) / kv_heads, sequences = op.row_begin.dim(0) - 1;
  // Rows from pages may begin anywhere in a block.
  const int64_t reach = op.longest + (op.kv_pages && op.longest > 1 ? kGrid - 1 : 0);
  const int64_t tiles = (reach + kGrid - 1) / kGrid, stacked = (op.longest < kGrid ? op.longest : kGrid) * group;
  const int64_t chunks = (stacked + kGrid - 1) / kGrid;
  const SoftmaxForward<T> argument{view_of<T, 3>(op.o),
                                   view_of<const T, 3>(op.q),
                                   {view_of<const T, 3>(op.k), view_of<const T, 3>(op.v),
                                    view_of<const T, 5>(op.kv_pages), view_of<const int32_t, 2>(op.page_table)},
                                   view_of<const int32_t, 1>(op.row_begin),
                                   view_of<const int64_t, 1>(op.positions),
                                   view_of<float, 2>(op.log_sum_exp),
                                   sequences,
                                   kv_heads,
                                   int(tiles),
                                   int(chunks),
                                   int(group),
                                   Exponential<T>::kUnit / std::sqrt(float(op.q.dim(2)))};
  launch_tiles<Tiles>(stream, "softmax_attention", softmax_forward<Tiles>, argument,
                      tiles * sequences * chunks * kv_heads, ForwardChunk<Tiles>::kBytes);
}

}  // namespace fulgur::cuda
