// Both gradients of a product with few outputs, as a router's, in one launch: dx = dy w, or added to dx, and
// dw += dy^T x, in bf16. The bits are those of ops/cuda/products.cuh: a sum takes k in the matrix unit's steps of 16,
// ascending.
//
// x and dx are read once, and nothing else is large. A sum of dw walks all rows, so some thread blocks take 16 columns
// of it and all of x below: a warp multiplies 8 columns in one chain, the others fetch rows ahead of it. Meanwhile the
// other blocks compute dx, 128 rows by 512 columns each.
#pragma once
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda::few_outputs {

inline constexpr int kMostOutputs = 32;
inline constexpr int kStep = 16;                        // of the matrix unit: outputs of a tile, rows of a step
inline constexpr int kStages = 12, kStageRows = 128;    // of dw
inline constexpr int kStagePitch = kStageRows + 4;      // chunks side by side do not meet in a bank
inline constexpr int kColumns = 16;                     // of dw in a thread block
inline constexpr int kMultiplying = kColumns / kChunk;  // warps; the others fetch
inline constexpr int kBlockRows = 128, kWarpColumns = 64, kBlockColumns = kThreads / 32 * kWarpColumns;  // of dx

struct Gradients {
  Rows<bf16> dx;
  Rows<float> dw;
  Rows<const bf16> dy, x, w;  // begin at multiples of 16 bytes, as do their rows
  bool adds;                  // to dx
  int64_t weight_blocks, input_blocks;
};

// Chunks of rows, one above the other as the matrix unit wants them.
template <int kTiles>
struct Stage {
  static constexpr int kOutputChunks = kTiles * kStep / kChunk;
  uint4 dy[kOutputChunks][kStagePitch], x[kMultiplying][kStagePitch];
};
template <int kTiles>
struct Shared {
  Stage<kTiles> stages[kStages];
};

// kChunks chunks of the rows from `first` on, by the warps that fetch; zeros where there are none.
template <int kChunks>
__device__ void fetch_chunks(uint4 (*to)[kStagePitch], const Rows<const bf16>& from, int64_t first, int64_t column) {
  constexpr int kFetching = kThreads - 32 * kMultiplying;
  for (int i = int(threadIdx.x) - 32 * kMultiplying; i < kStageRows * kChunks; i += kFetching) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int64_t at = column + chunk * kChunk;
    const bool there = first + row < from.count && at < from.width;
    copy_async(&to[chunk][row], there ? from[first + row] + at : from.data, there);
  }
}

// Two steps of a warp: 32 rows.
template <int kTiles>
struct Fragments {
  uint32_t dy[2][kTiles][4], x[4];

  __device__ void load(const Stage<kTiles>& stage, int row, int warp) {
    const int lane = int(threadIdx.x % 32);
#pragma unroll
    for (int step = 0; step < 2; ++step)
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        load_matrices_transposed(
            dy[step][tile], reinterpret_cast<const bf16*>(
                                &stage.dy[2 * tile + lane / 8 % 2][row + kStep * step + lane % 8 + lane / 16 * 8]));
    load_matrices_transposed(x, reinterpret_cast<const bf16*>(&stage.x[warp][row + lane]));
  }
};

// Adds a stage's rows to a warp's sums; `ahead` are its first, and become the next stage's.
template <int kTiles>
__device__ __forceinline__ void multiply_stage(float (&sums)[kTiles][4], Fragments<kTiles>& ahead,
                                               const Stage<kTiles>& stage, const Stage<kTiles>& next, int warp) {
#pragma unroll
  for (int row = 32; row <= kStageRows; row += 32) {
    const Fragments<kTiles> now = ahead;
    ahead.load(row < kStageRows ? stage : next, row % kStageRows, warp);
#pragma unroll
    for (int step = 0; step < 2; ++step)
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        multiply_add_16(sums[tile], now.dy[step][tile], now.x[2 * step], now.x[2 * step + 1]);
  }
}

template <int kTiles>
__device__ void add_weight_gradient(const Gradients& g, int64_t column) {
  auto& stages = reinterpret_cast<Shared<kTiles>*>(dynamic_shared())->stages;
  const int warp = int(threadIdx.x / 32), lane = int(threadIdx.x % 32);
  const bool multiplies = warp < kMultiplying;
  const auto fetch_stage = [&](int number) {
    Stage<kTiles>& stage = stages[number % kStages];
    fetch_chunks<Stage<kTiles>::kOutputChunks>(stage.dy, g.dy, int64_t(number) * kStageRows, 0);
    fetch_chunks<kMultiplying>(stage.x, g.x, int64_t(number) * kStageRows, column);
    commit_copies();
  };
  // The warp's own and the next stage are there: all but the last kStages - 3 of those that were asked for.
  const auto meet = [&] {
    if (!multiplies) wait_for_copies<kStages - 3>();
    __syncthreads();
  };
  float sums[kTiles][4];
  const auto each_pair = [&](const auto& visit) {
    const int64_t at = column + warp * kChunk + lane % 4 * 2;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (const int output = kStep * tile + 8 * half + lane / 4; output < g.dw.count && at < g.dw.width)
          visit(sums[tile][2 * half], sums[tile][2 * half + 1], reinterpret_cast<float2*>(g.dw[output] + at));
  };
  if (multiplies) {
    each_pair([](float& first, float& second, const float2* at) { first = at->x, second = at->y; });
  } else {
    for (int number = 0; number < kStages - 1; ++number) fetch_stage(number);
  }
  meet();
  Fragments<kTiles> ahead;
  if (multiplies) ahead.load(stages[0], 0, warp);
  const int count = int(divide_up(g.x.count, kStageRows));
  for (int number = 0; number < count; ++number) {
    if (multiplies) multiply_stage(sums, ahead, stages[number % kStages], stages[(number + 1) % kStages], warp);
    else fetch_stage(number + kStages - 1);
    meet();
  }
  if (multiplies) each_pair([](float first, float second, float2* at) { *at = {first, second}; });
  else wait_for_copies<0>();
}

// The weights of a warp's columns as the matrix unit's right factor: kSets times 32 columns, whose four blocks of eight
// are dealt out so that a lane's sums lie side by side. Of set s and block j, column n is column 32 s + 8 (n / 2) +
// 2 j + n % 2 of the warp.
inline constexpr int kSets = kWarpColumns / 32;
template <int kTiles>
struct Weights {
  uint32_t pairs[kSets][4][kTiles][2];

  __device__ void load(const Rows<const bf16>& w, int64_t column) {
    const int n = int(threadIdx.x % 32) / 4, output = int(threadIdx.x % 4) * 2;
#pragma unroll
    for (int set = 0; set < kSets; ++set)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int half = 0; half < 2 * kTiles; ++half) {
          const int64_t at = column + 32 * set + 8 * (n / 2) + 2 * j + n % 2, from = output + 8 * half;
          const bool there = from < w.count && at < w.width;
          pairs[set][j][half / 2][half % 2] =
              there ? uint32_t(w[from][at].bits) | uint32_t(w[from + 1][at].bits) << 16 : 0;
        }
  }
};

// Of a step's 16 rows, those of a lane: what is there of dx, and dy as the left factor.
template <int kTiles>
struct StepRows {
  uint4 dx[kSets][2];
  uint32_t dy[kTiles][4];

  __device__ void fetch(const Gradients& g, int64_t first, int64_t column) {
    const int output = int(threadIdx.x % 4) * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first + 8 * half;
      const bool there = row < g.dy.count;
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
        const bool inside = g.adds && there && column + 32 * set < g.dx.width;
        dx[set][half] =
            inside ? *reinterpret_cast<const uint4*>(g.dx[row] + column + 32 * set) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int chunk = 0; chunk < 2 * kTiles; ++chunk) {
        const int at = output + 8 * chunk;
        dy[chunk / 2][chunk % 2 * 2 + half] =
            there && at < g.dy.width ? *reinterpret_cast<const uint32_t*>(g.dy[row] + at) : 0;
      }
    }
  }
};

// The sums of 16 rows and a set's 32 columns.
template <int kTiles>
__device__ __forceinline__ void multiply_set(uint4 (&dx)[2], const uint32_t (&dy)[kTiles][4],
                                             const uint32_t (&w)[4][kTiles][2]) {
  uint32_t words[2][4] = {{dx[0].x, dx[0].y, dx[0].z, dx[0].w}, {dx[1].x, dx[1].y, dx[1].z, dx[1].w}};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float sums[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sums[2 * half] = __uint_as_float(words[half][j] << 16);
      sums[2 * half + 1] = __uint_as_float(words[half][j] & 0xffff0000);
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) multiply_add_16(sums, dy[tile], w[j][tile][0], w[j][tile][1]);
#pragma unroll
    for (int half = 0; half < 2; ++half) words[half][j] = bf16_pair(sums[2 * half], sums[2 * half + 1]);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half)
    dx[half] = make_uint4(words[half][0], words[half][1], words[half][2], words[half][3]);
}

template <int kTiles>
__device__ void compute_input_gradient(const Gradients& g, int64_t first, int64_t block_column) {
  const int lane = int(threadIdx.x % 32);
  const int64_t warp_column = block_column + int(threadIdx.x / 32) * kWarpColumns;
  if (warp_column >= g.dx.width) return;
  const int64_t column = warp_column + lane % 4 * 8, last = min(first + kBlockRows, g.dx.count);
  StepRows<kTiles> now, next;
  next.fetch(g, first + lane / 4, column);
  Weights<kTiles> weights;
  weights.load(g.w, warp_column);
  for (int64_t row = first; row < last; row += kStep) {
    now = next;
    if (row + kStep < last) next.fetch(g, row + kStep + lane / 4, column);
#pragma unroll
    for (int set = 0; set < kSets; ++set) {
      multiply_set<kTiles>(now.dx[set], now.dy, weights.pairs[set]);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (const int64_t at = row + lane / 4 + 8 * half; at < g.dx.count && column + 32 * set < g.dx.width)
          *reinterpret_cast<uint4*>(g.dx[at] + column + 32 * set) = now.dx[set][half];
    }
  }
}

// The blocks of dw come first: they take longest.
template <int kTiles>
__global__ void __launch_bounds__(kThreads, 2) compute_gradients(Gradients g) {
  const int64_t index = block_index(), of_input = index - g.weight_blocks;
  if (of_input < 0) {
    add_weight_gradient<kTiles>(g, index * kColumns);
  } else if (of_input < g.input_blocks) {
    const int64_t across = divide_up(g.dx.width, kBlockColumns);
    compute_input_gradient<kTiles>(g, of_input / across * kBlockRows, of_input % across * kBlockColumns);
  }
}

}  // namespace fulgur::cuda::few_outputs
