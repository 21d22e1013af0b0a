// Products of small matrices in shared memory by a warp, in one fixed order of steps: bf16 on the matrix unit, f32 as
// one chain of fused multiply-adds. Both hold sums alike: tiles of 16 x 8, laid out as ops/cuda/matrix_unit.cuh says.
#pragma once
#include "ops/cuda/matrix_unit.cuh"

namespace fulgur::cuda {

// A window on a matrix in shared memory; the stride counts elements.
template <class T>
struct Tile {
  T* data;
  int stride;
  __device__ T* at(int row, int column) const { return data + row * stride + column; }
  __device__ Tile from(int row, int column) const { return {at(row, column), stride}; }
};

// How an operand lies: [row or column, step], or [step, row or column].
enum class Steps { inside, outside };

template <int kTilesDown, int kTilesAcross>
using Sums = float[kTilesDown][kTilesAcross][4];

// body(row, column, x, y) for the lane's pairs of sums: x at (row, column), y at (row, column + 1).
template <int kDown, int kAcross, class Body>
__device__ __forceinline__ void for_pairs(Sums<kDown, kAcross>& sums, Body body) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int m = 0; m < kDown; ++m)
#pragma unroll
    for (int n = 0; n < kAcross; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        body(16 * m + 8 * half + lane / 4, 8 * n + lane % 4 * 2, sums[m][n][2 * half], sums[m][n][2 * half + 1]);
}

// A's 16 rows and 16 steps.
template <Steps kSteps>
__device__ __forceinline__ void load_rows(uint32_t (&to)[4], Tile<bf16> a, int row, int step) {
  const int lane = int(threadIdx.x) % 32;
  if constexpr (kSteps == Steps::inside) {
    load_matrices(to, a.at(row + lane % 16, step + lane / 16 * 8));
  } else {
    load_matrices_transposed(to, a.at(step + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8));
  }
}

// B's 16 columns and 16 steps: two fragments of the first 8 columns, two of the others.
template <Steps kSteps>
__device__ __forceinline__ void load_columns(uint32_t (&to)[4], Tile<bf16> b, int column, int step) {
  const int lane = int(threadIdx.x) % 32;
  if constexpr (kSteps == Steps::inside) {
    load_matrices(to, b.at(column + lane % 8 + lane / 16 * 8, step + lane / 8 % 2 * 8));
  } else {
    load_matrices_transposed(to, b.at(step + lane % 8 + lane / 8 % 2 * 8, column + lane / 16 * 8));
  }
}

// sums += a b over steps [begin, end), multiples of 16, ascending or descending.
template <Steps kA, Steps kB, bool kDescending, int kDown, int kAcross>
__device__ __forceinline__ void multiply_add(Sums<kDown, kAcross>& sums, Tile<bf16> a, Tile<bf16> b, int begin,
                                             int end) {
  static_assert(kAcross % 2 == 0);
#pragma unroll 4
  for (int done = 0; done < end - begin; done += 16) {
    const int step = kDescending ? end - 16 - done : begin + done;
    uint32_t rows[kDown][4];
#pragma unroll
    for (int m = 0; m < kDown; ++m) load_rows<kA>(rows[m], a, 16 * m, step);
#pragma unroll
    for (int n = 0; n < kAcross; n += 2) {
      uint32_t columns[4];
      load_columns<kB>(columns, b, 8 * n, step);
#pragma unroll
      for (int m = 0; m < kDown; ++m) {
        multiply_add_16(sums[m][n], rows[m], columns[0], columns[1]);
        multiply_add_16(sums[m][n + 1], rows[m], columns[2], columns[3]);
      }
    }
  }
}

template <Steps kA, Steps kB, bool kDescending, int kDown, int kAcross>
__device__ __forceinline__ void multiply_add(Sums<kDown, kAcross>& sums, Tile<float> a, Tile<float> b, int begin,
                                             int end) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll 2
  for (int done = 0; done < end - begin; ++done) {
    const int step = kDescending ? end - 1 - done : begin + done;
    const auto of_a = [&](int row) { return kA == Steps::inside ? *a.at(row, step) : *a.at(step, row); };
    const auto of_b = [&](int column) { return kB == Steps::inside ? *b.at(column, step) : *b.at(step, column); };
    float rows[kDown][2];
#pragma unroll
    for (int m = 0; m < kDown; ++m) {
      rows[m][0] = of_a(16 * m + lane / 4);
      rows[m][1] = of_a(16 * m + lane / 4 + 8);
    }
#pragma unroll
    for (int n = 0; n < kAcross; ++n) {
      const float first = of_b(8 * n + lane % 4 * 2), second = of_b(8 * n + lane % 4 * 2 + 1);
#pragma unroll
      for (int m = 0; m < kDown; ++m) {
        sums[m][n][0] = __fmaf_rn(rows[m][0], first, sums[m][n][0]);
        sums[m][n][1] = __fmaf_rn(rows[m][0], second, sums[m][n][1]);
        sums[m][n][2] = __fmaf_rn(rows[m][1], first, sums[m][n][2]);
        sums[m][n][3] = __fmaf_rn(rows[m][1], second, sums[m][n][3]);
      }
    }
  }
}

}  // namespace fulgur::cuda
