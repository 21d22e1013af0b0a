// Rows of no expert become zero: those from the last expert's end on. Mostly there is none, which few blocks see soon.
#pragma once
#include <algorithm>

#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

template <class T>
static __global__ void __launch_bounds__(kThreads) clear_rows_from(Rows<T> y, const int32_t* end) {
  follow();
  for (int64_t row = *end + int64_t(blockIdx.x); row < y.count; row += gridDim.x)
    for (int64_t column = threadIdx.x; column < y.width; column += kThreads) y[row][column] = T(0.0f);
}

template <class T>
void clear_surplus(Stream& stream, const char* name, const Tensor& y, const Tensor& expert_begin) {
  constexpr int64_t kClearingBlocks = 256;
  const Rows<T> rows = rows_of<T>(y);
  launch_following(stream, name, std::min<int64_t>(rows.count, kClearingBlocks), dim3(kThreads), clear_rows_from<T>,
                   rows, static_cast<const int32_t*>(expert_begin.elements<int32_t>() + expert_begin.dim(0) - 1));
}

}  // namespace fulgur::cuda
