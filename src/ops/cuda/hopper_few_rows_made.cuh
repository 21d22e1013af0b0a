// y = x w^T of few rows that are made on the way, for Hopper, in one launch. The bits of what makes them and of
// ops/cuda/hopper_few_rows.cuh.
//
// A thread block computes 64 outputs of all rows: one warp asks for weights, eight make x into the stages' tiles, four
// multiply. Every block makes all of x, whose operands come from the cache.
#pragma once
#include "ops/cuda/hopper_few_rows.cuh"
#include "ops/cuda/hopper_launch.cuh"
#include "ops/cuda/products.cuh"
#include "ops/linear.h"

namespace fulgur::cuda::hopper_products {

inline constexpr int kMakers = 8, kMadeThreads = kFewRowsThreads + 32 * kMakers;  // warps
inline constexpr int kMadeRows = 8;  // of a tile: of more, a launch for them alone takes less

// X: what rows are made of. make_rows(shared, f) does so, by the makers, who wait for the kernels before.
template <class X>
struct FewRowsMade {
  static constexpr int kPartOutputs = kOutputs;
  static constexpr bool kGathers = true;  // threads write the tiles of x
  TensorMap w;
  X x;
  bf16* y;
  int64_t y_row;
  int rows, out, in;
};
using MadeShared = FewRowsShared<kMadeRows>;

template <class X>
__device__ inline void prefetch_maps(const FewRowsMade<X>& f) {
  prefetch_map(f.w);
}
template <class Stage, class X>
__device__ inline void copy_weights(Stage& stage, const FewRowsMade<X>& f, int k, const FewRowsPart& part,
                                    uint32_t full) {
  copy_box(shared_address(stage.w), f.w, k, part.out, 0, full);
}

// A lane's chunk of a row of x, from a column on, to its tile: of whole warps, each lane's columns ascending. A stage
// is full when its weights are there and each row's part of it.
__device__ inline void put_made(MadeShared& shared, int stages, int row, int column, const float (&x)[kChunk]) {
  const int stage = column / kSteps, at = stage % MadeShared::kStages;
  const bool there = stage < stages;
  if (there) {
    await_room(shared, stage);
    store<true>(reinterpret_cast<bf16*>(shared.stages[at].x + tile_offset(row, column % kSteps)), x, kChunk);
  }
  __syncwarp();
  if (there && column % kSteps == 0) barrier_arrive(shared_address(&shared.full[at]));
}

template <class X>
__global__ void __launch_bounds__(kMadeThreads) multiply_few_made(const __grid_constant__ FewRowsMade<X> f) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // as the kernels of more rows
  auto& shared = begin_few_rows<MadeShared>(f, 1 + f.rows);
  const FewRowsPart part{.group = 0, .out = int(blockIdx.x) * kOutputs, .row = 0, .row_end = f.rows};
  if (threadIdx.x < kWarpgroup) {
    await_previous();
    float sums[kMadeRows / 2];
    sum_few_rows(sums, shared, f, part);
    store_few_rows<kMadeRows>(f, f.y, part, first_output(), sums);
  } else if (threadIdx.x < kFewRowsThreads) {
    const bool asks = threadIdx.x == kWarpgroup;
    const int asked = asks ? ask_early_weights(shared, f, part) : 0;
    await_previous();
    for (int i = asked; asks && i < stages_of<MadeShared>(f); ++i)
      await_room(shared, i), ask_weights(shared, f, part, i);
  } else {
    make_rows(shared, f);
  }
#endif
}

// Whether it could; where not, nothing was done. x() describes the rows for kernels.
template <class MakeX>
bool multiply_made(Stream& stream, const char* name, const Linear& op, const MakeX& x) {
  using X = decltype(x());
  if (op.x.dtype != DType::bf16) return false;
  const Factors<bf16, bf16, bf16> f{.a = strided<const bf16>(op.x),
                                    .b = turned(strided<const bf16>(op.w.values)),
                                    .c = strided<bf16>(op.y),
                                    .m = op.x.dim(0),
                                    .n = op.w.out(),
                                    .k = op.w.in(),
                                    .adds = false,
                                    .groups = {}};
  if (!fits(f) || f.m > kMadeRows) return false;
  const size_t bytes = sizeof(MadeShared) + 1024;
  const auto kernel = multiply_few_made<X>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "cudaFuncSetAttribute");
  launch(stream, name,
         {.blocks = dim3(unsigned(divide_up(f.n, kOutputs))),
          .threads = dim3(kMadeThreads),
          .shared_bytes = bytes,
          .follows = true},
         kernel,
         FewRowsMade<X>{.w = map_along(f.b, f.n, f.k, f.groups, 0, kOutputs),
                        .x = x(),
                        .y = f.c.data,
                        .y_row = f.c.row,
                        .rows = int(f.m),
                        .out = int(f.n),
                        .in = int(f.k)});
  return true;
}

}  // namespace fulgur::cuda::hopper_products
