// y = SiLU(x w_gate^T) * (x w_up^T) of few rows by experts, for Hopper, in one launch. The bits of two products
// (ops/cuda/hopper_few_rows.cuh) and swiglu.
//
// A thread block computes 32 outputs: the upper half of its weights' tile are the gate's rows, the lower half up's. Two
// of its warps hand their sums to the two others. Rows of x are gathered.
#pragma once
#include "ops/cuda/hopper_few_rows.cuh"

namespace fulgur::cuda::hopper_products {

struct FewRowsGated {
  static constexpr int kPartOutputs = kOutputs / 2;
  static constexpr bool kGathers = true;
  TensorMap w, w_up;
  GatheredRows x;
  bf16 *y, *gate, *up;  // gate, up: null where they are not kept
  int64_t y_row;
  int rows, out, in;
  Groups groups;
  bool every_group;
};

template <int kRows, class Stages>
struct FewRowsGatedShared : Stages {
  float up[kRows][FewRowsGated::kPartOutputs + 4];  // in different banks
};

__device__ inline void prefetch_maps(const FewRowsGated& f) { prefetch_map(f.w), prefetch_map(f.w_up); }
template <class Stage>
__device__ inline void copy_weights(Stage& stage, const FewRowsGated& f, int k, const FewRowsPart& part,
                                    uint32_t full) {
  constexpr int kHalf = FewRowsGated::kPartOutputs * kTileRowBytes;
  copy_box(shared_address(stage.w), f.w, k, part.out, part.group, full);
  copy_box(shared_address(stage.w) + kHalf, f.w_up, k, part.out, part.group, full);
}

// Each is rounded to bf16 first, as where it lies in memory.
template <int kRows, class Shared>
__device__ void finish_few_rows(float (&sums)[kRows / 2], Shared& shared, const FewRowsGated& f,
                                const FewRowsPart& part) {
  const int warp = int(threadIdx.x) / 32, first = warp % 2 * 16 + int(threadIdx.x) % 32 / 4;
  if (warp >= 2) {
    if (f.up) store_few_rows<kRows>(f, f.up, part, first, sums);
    for_each_sum<kRows>([&](int i, int row, int output) { shared.up[row][first + output] = sums[i]; });
  }
  named_barrier(1, kWarpgroup);
  if (warp >= 2) return;
  if (f.gate) store_few_rows<kRows>(f, f.gate, part, first, sums);
  for_each_sum<kRows>([&](int i, int row, int output) {
    const uint32_t pair = bf16_pair(sums[i], shared.up[row][first + output]);
    sums[i] = gated(low_half(pair), high_half(pair));
  });
  store_few_rows<kRows>(f, f.y, part, first, sums);
}

template <int kRows, class Stages>
__global__ void __launch_bounds__(kFewRowsThreads) multiply_few_gated(const __grid_constant__ FewRowsGated f) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // as the kernels of more rows
  run_few_rows<kRows, FewRowsGatedShared<kRows, Stages>>(f);
#endif
}

}  // namespace fulgur::cuda::hopper_products
