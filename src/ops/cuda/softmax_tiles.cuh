// What softmax attention's kernels share: tiles of 64 rows of a head in shared memory, scores of 64 rows against 64,
// and products of weights that are made of them.
//
// Each of a thread block's four warps owns 16 rows of its tile, all columns of their results and all 64 scores against
// the tile that streams by. So a row's statistics stay in four lanes, and in bf16 runs its weights enter the next
// product from the registers where they were made. Nothing depends on which 16 rows a warp has: every sum runs over
// whole tiles, absent rows and columns are zeros.
#pragma once
#include "base/grid.h"
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/attention_operands.cuh"
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/tiles.cuh"
#include "ops/cuda/vectors.cuh"

namespace fulgur::cuda {

// f32 runs take e to a power and logarithms of e; in bf16 runs, whose weights are rounded to 8 bits, both are of 2, and
// scores come in its unit.
template <class T>
struct Exponential {
  static constexpr bool kOfTwo = sizeof(T) == 2;
  static constexpr float kUnit = kOfTwo ? 1.44269504F : 1;
  __device__ static float of(float x) {
    if constexpr (kOfTwo) {
      return exp2f(x);
    } else {
      return expf(x);
    }
  }
  __device__ static float natural_log(float x, float shift) {  // of x times the exponential of the shift
    if constexpr (kOfTwo) {
      return __fmul_rn(__fadd_rn(shift, log2f(x)), 0.693147181F);
    } else {
      return __fadd_rn(shift, logf(x));
    }
  }
};

// Rows [row, row + rows) of the batch: one sequence's, inside block `block` of its grid, of which `first` rows lie
// before them.
struct RowTile {
  int64_t row, block;
  int rows, first;
};

// The index-th of a sequence's tiles in a call; no rows where it has fewer.
__device__ inline RowTile row_tile(const View<const int32_t, 1>& row_begin, const View<const int64_t, 1>& positions,
                                   int64_t sequence, int64_t index) {
  const int64_t begin = row_begin(sequence), end = row_begin(sequence + 1);
  if (begin == end) return {};
  const int64_t position = positions(begin), grid_begin = begin - position % kGrid + index * kGrid;
  const int64_t row = index == 0 ? begin : grid_begin, left = end - row, room = grid_begin + kGrid - row;
  return {row, position / kGrid + index, int(left < 0 ? 0 : left < room ? left : room), int(row - grid_begin)};
}

template <class Element, int kWidthOf, int kStagesOf = sizeof(Element) == 2 ? 2 : 1>
struct SoftmaxTiles {
  using T = Element;
  static constexpr int kWidth = kWidthOf, kRows = int(kGrid), kThreads = 128;
  static constexpr int kStages = kStagesOf;  // of what streams by
  static constexpr int kPerProcessor = kWidth * int(sizeof(T)) > 256 ? 1 : 2;
  using Results = Sums<1, kWidth / 8>;
  using Scores = Sums<1, kRows / 8>;

  // Rows are 16 bytes longer than their columns, so that eight of them reach all banks.
  static constexpr int kStride = kWidth + kVector<T>, kElements = kRows * kStride;
  static constexpr int kWeightStride = kRows + kVector<float>;
  static constexpr size_t kTileBytes = size_t(kElements) * sizeof(T);
  static constexpr size_t kWeightBytes = sizeof(T) == 2 ? 0 : size_t(kRows) * kWeightStride * sizeof(float);

  // Begins to fetch 64 rows, zeros where at(row) is null and beyond `columns`. `any`: an address that may be read.
  template <class At>
  __device__ static void fetch(Tile<T> to, const T* any, int columns, At at) {
    constexpr int kAcross = kWidth / kVector<T>;
#pragma unroll 4
    for (int i = int(threadIdx.x); i < kRows * kAcross; i += kThreads) {
      const int row = i / kAcross, column = i % kAcross * kVector<T>;
      const T* source = at(row);
      const bool there = source && column < columns;
      copy_async(to.at(row, column), there ? source + column : any, there);
    }
  }
  // The first `present` of 64 rows.
  __device__ static void fetch(Tile<T> to, const HeadRows<const T>& from, int present, int columns) {
    fetch(to, from.data, columns, [&](int row) { return row < present ? from.at(row, 0) : nullptr; });
  }

  // scores = rows columns^T
  __device__ __forceinline__ static void multiply_rows(Scores& scores, Tile<T> rows, Tile<T> columns) {
    multiply_add<Steps::inside, Steps::inside, false>(scores, rows, columns, 0, kWidth);
  }

  // results += weights rows, for a warp. `space`: 16 rows of its own in shared memory, which f32 alone uses.
  __device__ __forceinline__ static void multiply_weights(Results& results, Scores& weights, Tile<T> rows,
                                                          Tile<float> space) {
    if constexpr (sizeof(T) == 2) {
      // As the sums of a product lie in a warp, so do the rows of the next.
#pragma unroll
      for (int n = 0; n < kRows / 8; n += 2) {
        const float(&low)[4] = weights[0][n], (&high)[4] = weights[0][n + 1];
        const uint32_t entering[] = {bf16_pair(low[0], low[1]), bf16_pair(low[2], low[3]), bf16_pair(high[0], high[1]),
                                     bf16_pair(high[2], high[3])};
#pragma unroll
        for (int across = 0; across < kWidth / 8; across += 2) {
          uint32_t columns[4];
          load_columns<Steps::outside>(columns, rows, 8 * across, 8 * n);
          multiply_add_16(results[0][across], entering, columns[0], columns[1]);
          multiply_add_16(results[0][across + 1], entering, columns[2], columns[3]);
        }
      }
    } else {
      for_pairs(weights, [&](int row, int column, float x, float y) { store_pair(space.at(row, column), x, y); });
      __syncwarp();
      multiply_add<Steps::inside, Steps::outside, false>(results, space, rows, 0, kRows);
      __syncwarp();  // the weights have been read
    }
  }
};

// Starts a kernel of `items` thread blocks.
template <class Tiles, class Argument>
void launch_tiles(Stream& stream, const char* name, void (*kernel)(Argument), const Argument& argument, int64_t items,
                  size_t bytes) {
  allow_block_memory(name, kernel, bytes);
  launch(stream, name, {dim3(unsigned(items)), dim3(Tiles::kThreads), bytes}, kernel, argument);
}

}  // namespace fulgur::cuda
