// Softmax attention's gradients: p = exp(s - log_sum_exp) is recomputed tile by tile, dv = p^T do, ds = p (do v^T - do
// o), dk = ds^T q and dq = ds k, both divided by sqrt(head_dim). One pass per key tile, one per row tile.
//
// Both passes are of one kind. A thread block owns a tile, others stream by, and
//   owner   | owned    | streaming | scores | flow   | results
//   rows    | q and do | k and v   | q k^T  | do v^T | dq += ds k
//   keys    | k and v  | q and do  | k q^T  | v do^T | dk += ds^T q, dv += p^T do
#pragma once
#include <cmath>

#include "ops/cuda/scratch.cuh"
#include "ops/cuda/softmax_tiles.cuh"
#include "ops/softmax_attention.h"

namespace fulgur::cuda {

template <class T>
struct SoftmaxBackward {
  View<T, 3> dq, dk, dv;
  View<const T, 3> d_o, q, k, v, o;
  View<const float, 2> log_sum_exp;
  View<float, 2> along;  // do . o: the part of the gradient that only rescales the weights
  View<const int32_t, 1> row_begin;
  View<const int64_t, 1> positions;
  int64_t sequences;
  int tiles, group;  // of a sequence; heads of a KV head
  float scale;       // of products
};

// What exp takes from the scaled scores of a row, and do . o. Of an absent row: no weights.
struct RowStatistics {
  float shift, along;
};

template <class T>
__device__ RowStatistics statistics_of(const SoftmaxBackward<T>& op, int64_t head, const RowTile& tile, int row) {
  if (row >= tile.rows) return {INFINITY, 0};
  return {__fmul_rn(op.log_sum_exp(head, tile.row + row), Exponential<T>::kUnit), op.along(head, tile.row + row)};
}

template <class TilesOf>
struct BackwardTiles : TilesOf {
  using Tiles = TilesOf;
  using T = typename Tiles::T;
  static constexpr size_t kStatisticsBytes = Tiles::kStages * Tiles::kRows * sizeof(RowStatistics);
  static constexpr size_t kBytes =
      (2 + 2 * Tiles::kStages) * Tiles::kTileBytes + kStatisticsBytes + Tiles::kWeightBytes;

  const SoftmaxBackward<T>& op;
  T* const shared;
  const int columns = int(op.q.shape[2]), row0 = int(threadIdx.x) / 32 * 16;

  __device__ BackwardTiles(const SoftmaxBackward<T>& call, unsigned char* memory)
      : op(call), shared(reinterpret_cast<T*>(memory)) {}

  __device__ Tile<T> tile(int index) const { return {shared + index * Tiles::kElements, Tiles::kStride}; }
  __device__ Tile<T> owned(int which) const { return tile(which); }
  __device__ Tile<T> streaming(int which, int stage) const { return tile(2 + 2 * stage + which); }
  __device__ RowStatistics* statistics(int stage) const {
    return reinterpret_cast<RowStatistics*>(tile(2 + 2 * Tiles::kStages).data) + stage * Tiles::kRows;
  }
  __device__ Tile<float> weights() const {
    return {reinterpret_cast<float*>(statistics(Tiles::kStages)) + row0 * Tiles::kWeightStride, Tiles::kWeightStride};
  }

  __device__ void fetch(Tile<T> to, const View<const T, 3>& from, const RowTile& rows, int64_t head) const {
    Tiles::fetch(to, HeadRows<const T>{&from(rows.row, head, 0), from.stride[0]}, rows.rows, columns);
  }

  // scores become p and flow ds. of(row, column): statistics; sees(row, column): whether it has a weight.
  template <class Of, class Sees>
  __device__ __forceinline__ void weigh(typename Tiles::Scores& scores, typename Tiles::Scores& flow, int stage, Of of,
                                        Sees sees) const {
    Tiles::multiply_rows(scores, owned(0).from(row0, 0), streaming(0, stage));
    Tiles::multiply_rows(flow, owned(1).from(row0, 0), streaming(1, stage));
    const float scale = __fmul_rn(op.scale, Exponential<T>::kUnit);
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int n = 0; n < Tiles::kRows / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = row0 + i / 2 * 8 + lane / 4, column = 8 * n + lane % 4 * 2 + i % 2;
        const RowStatistics known = of(i / 2, column);
        float &p = scores[0][n][i], &ds = flow[0][n][i];
        p = sees(row, column) ? Exponential<T>::of(__fmaf_rn(scale, p, -known.shift)) : 0;
        ds = __fmul_rn(p, __fadd_rn(ds, -known.along));
      }
  }

  // The warp's rows of a tile of results.
  __device__ __forceinline__ void store(const View<T, 3>& to, const RowTile& rows, int64_t head,
                                        typename Tiles::Results& results, float factor) const {
    const HeadRows<T> at{&to(rows.row, head, 0), to.stride[0]};
    for_pairs(results, [&](int row, int column, float x, float y) {
      if (row0 + row < rows.rows && column < columns)
        store_pair(at.at(row0 + row, column), __fmul_rn(x, factor), __fmul_rn(y, factor));
    });
  }

  // body(n, stage) for n = 0 ... count - 1, each after begin(n, stage) has fetched what it reads.
  template <class Begin, class Body>
  __device__ __forceinline__ void stream(int64_t count, Begin begin, Body body) const {
    begin(0, 0);
    for (int64_t n = 0; n < count; ++n) {
      const bool last = n + 1 == count;
      wait_for_copies();
      __syncthreads();  // rows are there, and the other stage is free
      if (Tiles::kStages == 2 && !last) begin(n + 1, int((n + 1) % 2));
      body(n, int(n % Tiles::kStages));
      if (Tiles::kStages == 1 && !last) {
        __syncthreads();
        begin(n + 1, 0);
      }
    }
  }
};

// do . o of every row and head, by a warp: lane l takes columns l, l + 32, ..., then lanes add up pairwise.
inline constexpr int kAlongThreads = 256;
template <class T>
__global__ void __launch_bounds__(kAlongThreads) softmax_along(const __grid_constant__ SoftmaxBackward<T> op) {
  const int64_t item = int64_t(blockIdx.x) * (kAlongThreads / 32) + threadIdx.x / 32, heads = op.q.shape[1];
  const int64_t row = item / heads, head = item % heads;
  if (row >= op.q.shape[0]) return;
  float sum = 0;
  for (int column = int(threadIdx.x) % 32; column < op.q.shape[2]; column += 32)
    sum = __fmaf_rn(float(op.d_o(row, head, column)), float(op.o(row, head, column)), sum);
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffff, sum, mask));
  if (threadIdx.x % 32 == 0) op.along(head, row) = sum;
}

// dq of one tile of rows: the keys they see ascending. Late tiles have the most, and come first.
template <class Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, Tiles::kPerProcessor)
    softmax_query_gradient(const __grid_constant__ SoftmaxBackward<typename Tiles::T> op) {
  const int64_t heads = op.q.shape[1], head = blockIdx.x % heads, item = blockIdx.x / heads;
  const int64_t sequence = item % op.sequences, index = op.tiles - 1 - item / op.sequences;
  const RowTile rows = row_tile(op.row_begin, op.positions, sequence, index);
  if (rows.rows == 0) return;
  const BackwardTiles<Tiles> tiles(op, dynamic_shared());
  const int lane = int(threadIdx.x) % 32;
  const RowStatistics known[] = {statistics_of(op, head, rows, tiles.row0 + lane / 4),
                                 statistics_of(op, head, rows, tiles.row0 + lane / 4 + 8)};
  tiles.fetch(tiles.owned(0), op.q, rows, head);
  tiles.fetch(tiles.owned(1), op.d_o, rows, head);

  typename Tiles::Results dq = {};
  const auto fetch_keys = [&](int64_t n, int stage) {
    const RowTile keys = row_tile(op.row_begin, op.positions, sequence, n);
    tiles.fetch(tiles.streaming(0, stage), op.k, keys, head / op.group);
    tiles.fetch(tiles.streaming(1, stage), op.v, keys, head / op.group);
  };
  tiles.stream(index + 1, fetch_keys, [&](int64_t n, int stage) {
    if (tiles.row0 >= rows.rows) return;
    typename Tiles::Scores scores = {}, flow = {};
    tiles.weigh(
        scores, flow, stage, [&](int half, int) { return known[half]; },
        [&](int row, int key) { return n < index || key <= row; });
    Tiles::multiply_weights(dq, flow, tiles.streaming(0, stage), tiles.weights());
  });
  tiles.store(op.dq, rows, head, dq, op.scale);
}

// dk and dv of one tile of keys: the heads of the group in order, the rows that see the keys ascending, one chain.
template <class Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, Tiles::kPerProcessor)
    softmax_key_gradient(const __grid_constant__ SoftmaxBackward<typename Tiles::T> op) {
  const int64_t kv_heads = op.k.shape[1], kv_head = blockIdx.x % kv_heads, item = blockIdx.x / kv_heads;
  const int64_t sequence = item % op.sequences, index = item / op.sequences;
  const RowTile keys = row_tile(op.row_begin, op.positions, sequence, index);
  if (keys.rows == 0) return;
  const BackwardTiles<Tiles> tiles(op, dynamic_shared());
  tiles.fetch(tiles.owned(0), op.k, keys, kv_head);
  tiles.fetch(tiles.owned(1), op.v, keys, kv_head);

  typename Tiles::Results dk = {}, dv = {};
  // From the keys' own tile to the sequence's last, for each head.
  const int64_t streaming = (op.row_begin(sequence + 1) - keys.row + Tiles::kRows - 1) / Tiles::kRows;
  const auto fetch_rows = [&](int64_t n, int stage) {
    const RowTile rows = row_tile(op.row_begin, op.positions, sequence, index + n % streaming);
    const int64_t head = kv_head * op.group + n / streaming;
    tiles.fetch(tiles.streaming(0, stage), op.q, rows, head);
    tiles.fetch(tiles.streaming(1, stage), op.d_o, rows, head);
    const int row = int(threadIdx.x);
    if (row < Tiles::kRows) tiles.statistics(stage)[row] = statistics_of(op, head, rows, row);
  };
  tiles.stream(op.group * streaming, fetch_rows, [&](int64_t n, int stage) {
    if (tiles.row0 >= keys.rows) return;
    typename Tiles::Scores scores = {}, flow = {};
    const bool own = n % streaming == 0;
    tiles.weigh(
        scores, flow, stage, [&](int, int row) { return tiles.statistics(stage)[row]; },
        [&](int key, int row) { return !own || key <= row; });
    Tiles::multiply_weights(dv, scores, tiles.streaming(1, stage), tiles.weights());
    Tiles::multiply_weights(dk, flow, tiles.streaming(0, stage), tiles.weights());
  });
  tiles.store(op.dk, keys, kv_head, dk, op.scale);
  tiles.store(op.dv, keys, kv_head, dv, 1);
}

// kWidth: the head size or the next larger one that has a kernel. kStages: tiles of a stream at once.
template <class T, int kWidth, int kStages = sizeof(T) == 2 ? 2 : 1>
void launch_softmax_backward(Stream& stream, const SoftmaxAttentionBackward& op) {
  using Tiles = SoftmaxTiles<T, kWidth, kStages>;
  expect_vectors(op.dq, op.dk, op.dv, op.d_o, op.q, op.k, op.v, op.o);
  const int64_t rows = op.q.dim(0), heads = op.q.dim(1), kv_heads = op.k.dim(1), sequences = op.row_begin.dim(0) - 1;
  const int64_t tiles = (op.longest + kGrid - 1) / kGrid;
  const Scratch scratch(stream, size_t(heads * rows) * sizeof(float));
  const SoftmaxBackward<T> argument{view_of<T, 3>(op.dq),
                                    view_of<T, 3>(op.dk),
                                    view_of<T, 3>(op.dv),
                                    view_of<const T, 3>(op.d_o),
                                    view_of<const T, 3>(op.q),
                                    view_of<const T, 3>(op.k),
                                    view_of<const T, 3>(op.v),
                                    view_of<const T, 3>(op.o),
                                    view_of<const float, 2>(op.log_sum_exp),
                                    {scratch.as<float>(), {heads, rows}, {rows, 1}},
                                    view_of<const int32_t, 1>(op.row_begin),
                                    view_of<const int64_t, 1>(op.positions),
                                    sequences,
                                    int(tiles),
                                    int(heads / kv_heads),
                                    1 / std::sqrt(float(op.q.dim(2)))};
  const int64_t in_block = kAlongThreads / 32;
  launch(stream, "softmax_attention_backward: do . o",
         {dim3(unsigned((rows * heads + in_block - 1) / in_block)), dim3(kAlongThreads)}, softmax_along<T>, argument);
  launch_tiles<Tiles>(stream, "softmax_attention_backward: dk, dv", softmax_key_gradient<Tiles>, argument,
                      tiles * sequences * kv_heads, BackwardTiles<Tiles>::kBytes);
  launch_tiles<Tiles>(stream, "softmax_attention_backward: dq", softmax_query_gradient<Tiles>, argument,
                      tiles * sequences * heads, BackwardTiles<Tiles>::kBytes);
}

}  // namespace fulgur::cuda
