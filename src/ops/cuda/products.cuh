// Matrix products that any card since sm_80 computes: c = a b, or added to c. bf16 on the warps' matrix unit with f32
// sums, f32 by fused multiply-adds; each sum begins with what c holds, where it is added to, and takes k ascending, so
// it does not depend on the rows around, and calls that divide k between them (bf16: at multiples of 16) leave the bits
// of one.
//
// A block takes 64 x 64 of c. While a step of k is multiplied, the next one is on its way into registers.
#pragma once
#include "ops/cuda/factors.cuh"
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

inline constexpr int kTile = 64;

// The part of a product that a block computes: rows [m, m_end), columns from n on, steps [k, k_end).
struct Part {
  int64_t group, m, m_end, n, k, k_end;
};

// kRowsAlongK: the groups' rows are k, and each group has a c of its own. Else they are m, and each has a b of its own.
// False where there is nothing left for the block.
template <bool kRowsAlongK, class F>
__device__ bool find_part(const F& f, Part& part) {
  const int64_t across = divide_up(f.n, kTile), down = block_index() / across;
  part.n = block_index() % across * kTile;
  if constexpr (kRowsAlongK) {
    const int64_t tiles = divide_up(f.m, kTile);
    part.group = down / tiles, part.m = down % tiles * kTile, part.m_end = f.m;
    if (part.group >= f.groups.count) return false;
    part.k = f.groups.begin ? f.groups.begin[part.group] : 0;
    part.k_end = f.groups.begin ? f.groups.begin[part.group + 1] : f.k;
    return true;
  }
  part.k = 0, part.k_end = f.k;
  int64_t tile = down;
  for (part.group = 0; part.group < f.groups.count; ++part.group) {
    part.m = f.groups.begin ? f.groups.begin[part.group] : 0;
    part.m_end = f.groups.begin ? f.groups.begin[part.group + 1] : f.m;
    const int64_t tiles = divide_up(part.m_end - part.m, kTile);
    if (tile < tiles) {
      part.m += tile * kTile;
      return true;
    }
    tile -= tiles;
  }
  return false;
}

// How many blocks a product needs at most.
template <bool kRowsAlongK, class F>
int64_t blocks_of(const F& f) {
  const int64_t across = divide_up(f.n, kTile), tiles = divide_up(f.m, kTile);
  if (kRowsAlongK) return across * tiles * f.groups.count;
  return across * (f.groups.begin ? tiles + f.groups.count : tiles);
}

// Where the step that begins at k ends, all lanes of a warp together. f32 has no use for cuts: its steps are sums' own.
template <int kStep>
__device__ int64_t end_of_step(const Groups& groups, int64_t k, int64_t k_end) {
  const int64_t end = min(k + kStep, k_end);
  if constexpr (kStep == 32) {
    if (groups.cut == 0) return end;
    const int64_t mine = k + threadIdx.x % 32;
    const bool beyond = mine < end && groups.numbers[mine] / groups.cut != groups.numbers[k] / groups.cut;
    const uint32_t lanes = __ballot_sync(kAllLanes, beyond);
    return lanes ? k + __ffs(int(lanes)) - 1 : end;
  }
  return end;
}

// A tile of kTile outer lines and kStep steps of k: fetched into a thread's registers, put into shared memory as
// to[outer][step]. kAlongK: the steps lie side by side in memory, else the lines.
template <bool kAlongK, int kStep, int kThreadCount, class Number>
struct TileLoad {
  static constexpr int kEach = kTile * kStep / kThreadCount;
  Number numbers[kEach];

  // Number i of a thread: its line and step, both ascending with i, one of them constant.
  static constexpr int kLinesOn = kAlongK ? kThreadCount / kStep : 0, kStepsOn = kAlongK ? 0 : kThreadCount / kTile;
  __device__ static int line() { return int(threadIdx.x) / (kAlongK ? kStep : 1) % kTile; }
  __device__ static int step() { return kAlongK ? int(threadIdx.x) % kStep : int(threadIdx.x) / kTile; }
  // data: of line 0, step 0; `lines` and `steps` are there.
  template <class T>
  __device__ void fetch(const T* data, int64_t line_stride, int64_t step_stride, int64_t lines, int64_t steps) {
    const T* from = data + line() * line_stride + step() * step_stride;
    const int64_t on = kLinesOn * line_stride + kStepsOn * step_stride;
    const int lines_left = int(min(lines, int64_t(kTile))) - line(), steps_left = int(steps) - step();
#pragma unroll
    for (int i = 0; i < kEach; ++i, from += on)
      numbers[i] = i * kLinesOn < lines_left && i * kStepsOn < steps_left ? Number(float(*from)) : Number(0.0f);
  }
  template <int kPitch>
  __device__ void put(Number (*to)[kPitch]) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) to[line() + i * kLinesOn][step() + i * kStepsOn] = numbers[i];
  }
  template <int kPitch>
  __device__ void put_turned(Number (*to)[kPitch]) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) to[step() + i * kStepsOn][line() + i * kLinesOn] = numbers[i];
  }
};

// Walks a part's steps: `multiply` sees a and b of one step in shared memory.
template <int kStep, bool kAAlongK, bool kBAlongK, int kThreadCount, class Number, class F, class Put, class Multiply>
__device__ void walk_steps(const F& f, const Part& part, const Put& put, const Multiply& multiply) {
  TileLoad<kAAlongK, kStep, kThreadCount, Number> a;
  TileLoad<kBAlongK, kStep, kThreadCount, Number> b;
  const auto* const a_rows = f.a.data + part.m * f.a.row;
  const auto* const b_columns = f.b.data + part.group * f.groups.b_apart + part.n * f.b.column;
  const auto fetch = [&](int64_t k, int64_t end) {
    a.fetch(a_rows + k * f.a.column, f.a.row, f.a.column, part.m_end - part.m, end - k);
    b.fetch(b_columns + k * f.b.row, f.b.column, f.b.row, f.n - part.n, end - k);
  };
  int64_t k = part.k, end = k < part.k_end ? end_of_step<kStep>(f.groups, k, part.k_end) : k;
  fetch(k, end);
  while (k < part.k_end) {
    __syncthreads();
    put(a, b);
    __syncthreads();
    k = end;
    if (k < part.k_end) {
      end = end_of_step<kStep>(f.groups, k, part.k_end);
      fetch(k, end);
    }
    multiply();
  }
}

inline constexpr int kUnitThreads = 128;

// Four warps, 32 x 32 of c each.
template <bool kRowsAlongK, bool kAAlongK, bool kBAlongK, class A, class B, class C>
__global__ void __launch_bounds__(kUnitThreads) multiply_on_unit(Factors<A, B, C> f) {
  constexpr int kStep = 32, kPitch = kStep + 8;
  __align__(16) __shared__ bf16 a_tile[kTile][kPitch];
  __align__(16) __shared__ bf16 b_tile[kTile][kPitch];
  Part part;
  if (!find_part<kRowsAlongK>(f, part)) return;
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const int row = warp / 2 * 32, column = warp % 2 * 32;
  C* const c =
      f.c.data + part.group * f.groups.c_apart + (part.m + row + lane / 4) * f.c.row + part.n + column + lane % 4 * 2;
  const int64_t rows_left = part.m_end - part.m - row - lane / 4, columns_left = f.n - part.n - column - lane % 4 * 2;
  float sums[2][4][4];
  const auto each = [&](const auto& visit) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          const int down = i * 16 + s / 2 * 8, right = j * 8 + s % 2;
          visit(sums[i][j][s], c + down * f.c.row + right, down < rows_left && right < columns_left);
        }
  };
  each([&](float& sum, const C* at, bool inside) { sum = f.adds && inside ? number_at(at) : 0; });
  walk_steps<kStep, kAAlongK, kBAlongK, kUnitThreads, bf16>(
      f, part, [&](const auto& a, const auto& b) { a.put(a_tile), b.put(b_tile); },
      [&] {
#pragma unroll
        for (int k = 0; k < kStep; k += 16) {
          uint32_t a[2][4], b[2][4];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            load_matrices(a[i], &a_tile[row + i * 16 + lane % 16][k + lane / 16 * 8]);
            load_matrices(b[i], &b_tile[column + i * 16 + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
          }
#pragma unroll
          for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) multiply_add_16(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
      });
  each([&](float sum, C* at, bool inside) {
    if (inside) put_number(at, sum);
  });
}

// Four rows by four columns of c a thread.
template <bool kRowsAlongK, bool kAAlongK, bool kBAlongK>
__global__ void __launch_bounds__(kThreads) multiply_in_f32(Factors<float, float, float> f) {
  constexpr int kStep = 16, kPitch = kTile + 4;
  __align__(16) __shared__ float a_tile[kStep][kPitch];
  __align__(16) __shared__ float b_tile[kStep][kPitch];
  Part part;
  if (!find_part<kRowsAlongK>(f, part)) return;
  const int row = int(threadIdx.x / 16) * 4, column = int(threadIdx.x % 16) * 4;
  float* const c = f.c.data + part.group * f.groups.c_apart + (part.m + row) * f.c.row + part.n + column;
  const int64_t rows_left = part.m_end - part.m - row, columns_left = f.n - part.n - column;
  float sums[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] = f.adds && i < rows_left && j < columns_left ? c[i * f.c.row + j] : 0;
  walk_steps<kStep, kAAlongK, kBAlongK, kThreads, float>(
      f, part, [&](const auto& a, const auto& b) { a.put_turned(a_tile), b.put_turned(b_tile); },
      [&] {
#pragma unroll
        for (int k = 0; k < kStep; ++k) {
          float a[4], b[4];
          load<true>(a, &a_tile[k][row], 4), load<true>(b, &b_tile[k][column], 4);
#pragma unroll
          for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
      });
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (i < rows_left && j < columns_left) c[i * f.c.row + j] = sums[i][j];
}

// Which of a matrix' strides is 1 for a product that reads it; the stride of a lone row or column says nothing.
template <class T>
Strided<T> strided(const Tensor& t) {
  const View<std::remove_const_t<T>, 2> view = t.view<std::remove_const_t<T>, 2>();
  const int64_t column = view.shape[1] <= 1 ? 1 : view.stride[1];
  const int64_t row = view.shape[0] <= 1 && column != 1 ? 1 : view.stride[0];
  expect(row == 1 || column == 1, "rows or columns of a product's operand lie side by side");
  return {view.data, row, column};
}
template <class T>
Strided<T> turned(const Strided<T>& matrix) {
  return {matrix.data, matrix.column, matrix.row};
}

// kAAlongK, kBAlongK: k's steps lie side by side in a and b.
template <bool kRowsAlongK, bool kAAlongK, bool kBAlongK, class A, class B, class C>
void multiply(Stream& stream, const char* name, const Factors<A, B, C>& f) {
  expect(f.c.column == 1, "columns of a product's output lie side by side");
  const int64_t blocks = f.m == 0 || f.n == 0 ? 0 : blocks_of<kRowsAlongK>(f);
  if constexpr (std::is_same_v<B, float>) {
    launch_blocks(stream, name, blocks, dim3(kThreads), multiply_in_f32<kRowsAlongK, kAAlongK, kBAlongK>, f);
  } else {
    launch_blocks(stream, name, blocks, dim3(kUnitThreads), multiply_on_unit<kRowsAlongK, kAAlongK, kBAlongK, A, B, C>,
                  f);
  }
}

}  // namespace fulgur::cuda
