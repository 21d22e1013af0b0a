// y[i] = x[indices[i]], whole rows: take_rows and embedding.
//
// Blocks go through all rows of a slab of columns before the next slab: a row that is taken again soon, or a slab that
// fits the cache and is taken again at all, comes from memory once.
#pragma once
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

inline constexpr int kSlabLanes = 16, kGathered = 4;  // chunks of a slab; rows of a thread, fetched together

// The row of an index that says "none" (-1, where it may) is zeros; of one outside [0, rows of x): NaN.
template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads)
    gather_rows(Rows<T> y, Rows<const T> x, const int32_t* indices, bool may_be_none, int64_t groups) {
  follow();
  const int64_t c = (block_index() / groups * kSlabLanes + threadIdx.x) * kChunk, left = y.width - c;
  const int64_t first = block_index() % groups * blockDim.y * kGathered + threadIdx.y;
  if (left <= 0) return;
  Chunk<T> chunk[kGathered];
  int64_t index[kGathered];
#pragma unroll
  for (int r = 0; r < kGathered; ++r) {
    const int64_t i = first + r * blockDim.y;
    index[r] = i < y.count ? indices[i] : -1;
  }
#pragma unroll
  for (int r = 0; r < kGathered; ++r) {
    if (index[r] >= 0 && index[r] < x.count) {
      chunk[r] = fetch<kAligned>(x[index[r]] + c, left);
    } else {
      chunk[r] = filled<T>(may_be_none && index[r] == -1 ? 0.0F : __uint_as_float(0x7fffffff));
    }
  }
#pragma unroll
  for (int r = 0; r < kGathered; ++r) {
    const int64_t i = first + r * blockDim.y;
    if (i < y.count) put<kAligned>(y[i] + c, chunk[r], left);
  }
}

template <class T>
void gather(Stream& stream, const char* name, const Tensor& y, const Tensor& x, const Tensor& indices, bool may_be_none,
            bool follows) {
  constexpr int kRowsAtOnce = kThreads / kSlabLanes;
  const int64_t groups = divide_up(y.dim(0), kRowsAtOnce * kGathered);
  const int64_t slabs = divide_up(y.dim(1), kSlabLanes * kChunk);
  with_flag(aligned(y, x), [&]<bool kAligned>() {
    Grid grid = grid_of(groups * slabs, dim3(kSlabLanes, kRowsAtOnce));
    grid.follows = follows;
    if (groups * slabs == 0) return;
    launch(stream, name, grid, gather_rows<kAligned, T>, rows_of<T>(y), rows_of<const T>(x),
           static_cast<const int32_t*>(indices.elements<int32_t>()), may_be_none, groups);
  });
}

}  // namespace fulgur::cuda
