// A sum over rows in f64, rows ascending onto the value that is there: the bits do not depend on how rows are cut into
// calls. One thread adds; a step asks for it a few times a layer at most.
#pragma once
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

inline constexpr int kAddedTogether = 1024;

template <class Term>
__global__ void __launch_bounds__(kAddedTogether) add_terms(double* total, int64_t rows, Term term) {
  __shared__ double found[kAddedTogether];
  double sum = *total;
  for (int64_t first = 0; first < rows; first += kAddedTogether) {
    if (const int64_t row = first + threadIdx.x; row < rows) found[threadIdx.x] = term(row);
    __syncthreads();
    const int64_t left = rows - first, count = left < kAddedTogether ? left : kAddedTogether;
    if (threadIdx.x == 0)
      for (int64_t i = 0; i < count; ++i) sum += found[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) *total = sum;
}

// total += the sum over rows of term(row).
template <class Term>
void add_over_rows(Stream& stream, const char* name, double* total, int64_t rows, Term term) {
  if (rows > 0) launch_blocks(stream, name, 1, dim3(kAddedTogether), add_terms<Term>, total, rows, term);
}

}  // namespace fulgur::cuda
