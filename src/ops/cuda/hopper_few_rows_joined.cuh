// Few rows made as residual_norm makes them, where experts' choices join the residual stream, and multiplied
// (ops/cuda/hopper_few_rows_made.cuh). A warp makes a row; each block keeps its share of the columns for those who read
// them afterwards.
#pragma once
#include "ops/cuda/hopper_few_rows_made.cuh"
#include "ops/cuda/residual_join.cuh"

namespace fulgur::cuda::hopper_products {

using FewRowsJoined = FewRowsMade<ResidualRows<bf16>>;

// Columns beyond the last become zero.
__device__ inline void make_rows(MadeShared& shared, const FewRowsJoined& f) {
  static_assert(kMadeRows <= kMakers);
  const int row = (int(threadIdx.x) - kFewRowsThreads) / 32, stages = stages_of<MadeShared>(f);
  WarpRow<bf16>::Weights weights;
  WarpRow<bf16>::fetch_weights(weights, f.x);
  await_previous();
  if (row >= f.rows) return;
  WarpRow<bf16> joined;
  joined.template fetch<true>(f.x, row);
  joined.template norm<true>(f.x, row, weights, [&](int column) { return column / kSteps % gridDim.x == blockIdx.x; });
  joined.for_each_chunk([&](int column, const float(&x)[kChunk]) { put_made(shared, stages, row, column, x); });
}

}  // namespace fulgur::cuda::hopper_products
