// y[i] = x[indices[i]], whole rows, 16 bytes a thread at a time: take_rows and embedding.
#pragma once
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

// The row of an index that says "none" (-1, where it may) is zeros; of one outside [0, rows of x): NaN.
template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads)
    gather_rows(Rows<T> y, Rows<const T> x, const int32_t* indices, bool may_be_none) {
  constexpr int N = kAtOnce<T>;
  const int64_t i = row_of_thread();
  if (i >= y.count) return;
  const int64_t index = indices[i];
  const bool inside = index >= 0 && index < x.count;
  const float instead = may_be_none && index == -1 ? 0.0f : __uint_as_float(0x7fffffff);
#pragma unroll 4
  for (int64_t c = int64_t(threadIdx.x) * N; c < y.width; c += int64_t(blockDim.x) * N) {
    float v[N];
    if (inside) {
      load<kAligned>(v, x[index] + c, y.width - c);
    } else {
#pragma unroll
      for (int e = 0; e < N; ++e) v[e] = instead;
    }
    store<kAligned>(y[i] + c, v, y.width - c);  // a bf16 that was widened is rounded to itself
  }
}

template <class T>
void gather(Stream& stream, const char* name, const Tensor& y, const Tensor& x, const Tensor& indices,
            bool may_be_none) {
  const RowBlocks blocks(y.dim(0), divide_up(y.dim(1), kAtOnce<T>));
  with_flag(aligned(y, x), [&]<bool kAligned>() {
    launch_blocks(stream, name, blocks.blocks, blocks.threads, gather_rows<kAligned, T>, rows_of<T>(y),
                  rows_of<const T>(x), static_cast<const int32_t*>(indices.elements<int32_t>()), may_be_none);
  });
}

}  // namespace fulgur::cuda
