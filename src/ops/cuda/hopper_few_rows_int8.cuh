// y = x w^T of few rows by experts whose weights are int8 (ops/weight.h), for Hopper. The bits of
// ops/cuda/hopper_few_rows.cuh on the weights dequantised.
//
// A thread block computes 64 outputs of up to kRows rows. A warp loads stages of kScaleColumns steps; four warps take
// the numbers of their 16 outputs from it, make bf16 of them in registers, and multiply: while 64 steps are
// multiplied, the next 64 are made.
#pragma once
#include "ops/cuda/hopper_few_rows.cuh"
#include "ops/weight.h"

namespace fulgur::cuda::hopper_products {

inline constexpr int kHalves = int(kScaleColumns) / kSteps;  // of a stage

template <class Y>
struct FewRowsInt8 {
  static constexpr int kPartOutputs = kOutputs;
  static constexpr bool kGathers = false;
  TensorMap w, x;
  const float* scales;
  Y* y;
  int64_t y_row;
  int rows, out, in;
  Groups groups;
};

template <int kRows>
struct FewRowsInt8Shared {
  struct Stage {
    uint8_t w[kOutputs * int(kScaleColumns)], x[kHalves][kRows * kTileRowBytes];
  };
  static constexpr int kStageSteps = int(kScaleColumns);
  // Experts with few rows in all leave some processors idle, so a block has all that is to be on its way; else four
  // blocks of a processor share it.
  static constexpr int kStages = (kRows == 8 ? kFewRowsBytes : kFewRowsBytes / 2) / int(sizeof(Stage));
  static_assert(sizeof(Stage) % 1024 == 0);
  Stage stages[kStages];
  uint64_t full[kStages], empty[kStages];
};

// Two i8 numbers, in the low half, times a bf16 in both halves, rounded. 128 + (q mod 128) less 128, or less 256 where
// q is negative, is q.
__device__ inline uint32_t dequantised_pair(uint32_t numbers, uint32_t scale) {
  const uint32_t apart = __byte_perm(numbers, 0, 0x4140);
  const uint32_t magnitude = (apart & 0x007f007f) | 0x43004300, sign = (apart & 0x00800080) | 0x43004300;
  return bf16_pair_times(bf16_pair_minus(magnitude, sign), scale);
}

// What a thread multiplies of the weights: rows `row` and row + 8 of the tile, steps t % 4 * 2 and the next of each 8.
class WeightRows {
 public:
  template <class F>
  __device__ WeightRows(const F& f, const FewRowsPart& part, int row)
      : row_(row),
        scale_count_(int(scale_count(f.in))),
        scales_(f.scales + (int64_t(part.group) * f.out + part.out + row) * scale_count_) {
    for (int i = 0; i < 2; ++i) there_[i] = part.out + row + 8 * i < f.out;
    fetch(0);
  }

  // The next stage's scales, which are on their way while this stage is made.
  __device__ void advance(int stage) {
#pragma unroll
    for (int i = 0; i < 2; ++i) scale_[i] = bf16_pair(next_[i], next_[i]);
    if (stage + 1 < scale_count_) fetch(stage + 1);
  }

  // Steps [16 number, 16 number + 16) of the stage, as a product takes them.
  __device__ void make(uint32_t (&a)[4], const uint8_t* w, int number) const {
    const int piece = (number ^ (row_ % 8)) * 16 + int(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = dequantised_pair(
          *reinterpret_cast<const uint16_t*>(w + (row_ + i % 2 * 8) * kTileRowBytes + piece + i / 2 * 8),
          scale_[i % 2]);
  }

 private:
  __device__ void fetch(int stage) {
#pragma unroll
    for (int i = 0; i < 2; ++i) next_[i] = there_[i] ? scales_[i * 8 * scale_count_ + stage] : 0;
  }

  int row_, scale_count_;
  const float* scales_;
  bool there_[2];
  float next_[2];
  uint32_t scale_[2];
};

template <int kRows>
__device__ inline void multiply_rows_16(float (&sums)[kRows / 2], const uint32_t (&w)[4], uint64_t x) {
  if constexpr (kRows == 8) multiply_64x8x16<0>(sums, w, x, 1);
  else if constexpr (kRows == 16) multiply_64x16x16<0>(sums, w, x, 1);
  else multiply_64x32x16<0>(sums, w, x, 1);
}

// Half of a stage's products, begun when those before them are done.
template <int kRows>
__device__ __forceinline__ void multiply_half(float (&sums)[kRows / 2], uint32_t (&w)[kSteps / 16][4], uint64_t x) {
  products_wait<0>(sums);
#pragma unroll
  for (int step = 0; step < kSteps / 16; ++step) settle(w[step]);
  products_begin();
#pragma unroll
  for (int step = 0; step < kSteps / 16; ++step) multiply_rows_16<kRows>(sums, w[step], further(x, step * 32));
  products_commit();
}

template <int kRows, class F>
__device__ void multiply_few_rows(FewRowsInt8Shared<kRows>& shared, const F& f, const FewRowsPart& part) {
  using S = FewRowsInt8Shared<kRows>;
  const int row = int(threadIdx.x) / 32 * 16 + int(threadIdx.x) % 32 / 4, stages = int(scale_count(f.in));
  WeightRows rows(f, part, row);
  uint32_t w[kHalves][kSteps / 16][4];
  float sums[kRows / 2] = {};
  settle(sums);
  const auto make = [&](int i, int half) {
    const typename S::Stage& stage = shared.stages[i % S::kStages];
    if (half == 0) {
      rows.advance(i);
      await_stage(shared, f, i);
    }
#pragma unroll
    for (int step = 0; step < kSteps / 16; ++step) rows.make(w[half][step], stage.w, half * kSteps / 16 + step);
  };
  make(0, 0);
  for (int i = 0; i < stages; ++i) {
    const typename S::Stage& stage = shared.stages[i % S::kStages];
    multiply_half<kRows>(sums, w[0], tile_descriptor(shared_address(stage.x[0])));
    __syncwarp();
    if (i > 0 && threadIdx.x % 32 == 0) barrier_arrive(shared_address(&shared.empty[(i - 1) % S::kStages]));
    make(i, 1);
    multiply_half<kRows>(sums, w[1], tile_descriptor(shared_address(stage.x[1])));
    if (i + 1 < stages) make(i + 1, 0);
  }
  products_wait<0>(sums);
  store_few_rows<kRows>(f, f.y, part, row, sums);
}

template <int kRows, class Y>
__global__ void __launch_bounds__(kFewRowsThreads) multiply_few_int8(const __grid_constant__ FewRowsInt8<Y> f) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // as the kernels of more rows
  run_few_rows<kRows, FewRowsInt8Shared<kRows>>(f);
#endif
}

}  // namespace fulgur::cuda::hopper_products
