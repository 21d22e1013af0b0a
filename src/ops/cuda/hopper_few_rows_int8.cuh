// y = x w^T of few rows by experts whose weights are int8 (ops/weight.h), for Hopper, and the same gated. The bits of
// ops/cuda/hopper_few_rows.cuh and hopper_few_rows_gated.cuh on the weights dequantised.
//
// A thread block computes 64 outputs of up to kRows rows. A warp loads stages of kScaleColumns steps; four warps take
// the numbers of their 16 outputs from it, make bf16 of them in registers, and multiply: while 64 steps are
// multiplied, the next 64 are made.
#pragma once
#include "ops/cuda/hopper_few_rows_gated.cuh"
#include "ops/weight.h"

namespace fulgur::cuda::hopper_products {

inline constexpr int kHalves = int(kScaleColumns) / kSteps;  // of a stage

template <class Y>
struct FewRowsInt8 : FewRows<Y> {
  const float* scales;
  int64_t scales_apart;  // elements between the groups'
};
struct FewRowsInt8Gated : FewRowsGated {
  const float *scales, *up_scales;
  int64_t scales_apart;  // of either
};

template <int kRows, int kBytes>
struct FewRowsInt8Shared {
  struct Stage {
    uint8_t w[kOutputs * int(kScaleColumns)], x[kHalves][kRows * kTileRowBytes];
  };
  static constexpr int kStageSteps = int(kScaleColumns);
  static constexpr int kStages = kBytes / int(sizeof(Stage));
  static_assert(sizeof(Stage) % 1024 == 0);
  Stage stages[kStages];
  uint64_t full[kStages], empty[kStages];
};

// A scale in both halves as the functions below take it: rounded, times 128.
__device__ inline uint32_t large_scale(float scale) { return bf16_pair_times(bf16_pair(scale, scale), 0x43004300); }
// Two numbers q, given as bytes q + 128 in halves of their own, times a scale, rounded. Such a half is the bf16 (q +
// 128) 2^-133; what is taken away is the scale times 128, so the sum is exact before it is rounded.
__device__ inline uint32_t dequantised_halves(uint32_t halves, uint32_t large_scale) {
  return bf16_pair_times_plus(bf16_pair_times(halves, 0x7e807e80), large_scale, large_scale ^ 0x80008000);
}
// Of two i8 in the low half.
__device__ inline uint32_t dequantised_pair(uint32_t numbers, uint32_t large_scale) {
  return dequantised_halves(__byte_perm(numbers ^ 0x8080, 0, 0x4140), large_scale);
}

// What a thread multiplies of the weights: rows `row` and row + 8 of the tile, outputs `out` and out + 8; steps t % 4 *
// 2 and the next of each 8.
class WeightRows {
 public:
  template <class F>
  __device__ WeightRows(const F& f, const float* scales, int group, int out, int row)
      : row_(row),
        scale_count_(int(scale_count(f.in))),
        scales_(scales + group * f.scales_apart + int64_t(out) * scale_count_) {
    for (int i = 0; i < 2; ++i) there_[i] = out + 8 * i < f.out;
    fetch(0);
  }

  // The next stage's scales, which are on their way while this stage is made.
  __device__ void advance(int stage) {
#pragma unroll
    for (int i = 0; i < 2; ++i) scale_[i] = large_scale(next_[i]);
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

template <class Y>
__device__ inline WeightRows weight_rows(const FewRowsInt8<Y>& f, const FewRowsPart& part, int row) {
  return {f, f.scales, part.group, part.out + row, row};
}
__device__ inline WeightRows weight_rows(const FewRowsInt8Gated& f, const FewRowsPart& part, int row) {
  constexpr int kHalf = FewRowsGated::kPartOutputs;
  return {f, row < kHalf ? f.scales : f.up_scales, part.group, part.out + row % kHalf, row};
}

template <int kRows>
__device__ inline void multiply_rows_16(float (&sums)[kRows / 2], const uint32_t (&w)[4], uint64_t x) {
  if constexpr (kRows == 16) multiply_64x16x16<0>(sums, w, x, 1);
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

template <int kRows, int kBytes, class F>
__device__ void sum_few_rows(float (&sums)[kRows / 2], FewRowsInt8Shared<kRows, kBytes>& shared, const F& f,
                             const FewRowsPart& part) {
  using S = FewRowsInt8Shared<kRows, kBytes>;
  const int row = int(threadIdx.x) / 32 * 16 + int(threadIdx.x) % 32 / 4, stages = int(scale_count(f.in));
  WeightRows rows = weight_rows(f, part, row);
  uint32_t w[kHalves][kSteps / 16][4];
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) sums[i] = 0;
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
}

template <int kRows, class Stages, class Y>
__global__ void __launch_bounds__(kFewRowsThreads) multiply_few_int8(const __grid_constant__ FewRowsInt8<Y> f) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // as the kernels of more rows
  run_few_rows<kRows, Stages>(f);
#endif
}

template <int kRows, class Stages>
__global__ void __launch_bounds__(kFewRowsThreads) multiply_few_gated_int8(const __grid_constant__ FewRowsInt8Gated f) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
  run_few_rows<kRows, FewRowsGatedShared<kRows, Stages>>(f);
#endif
}

}  // namespace fulgur::cuda::hopper_products
