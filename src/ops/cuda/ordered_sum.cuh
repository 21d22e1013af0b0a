// A sum over rows in f64: pieces of kAddedRows rows, rows ascending from zero within each, the pieces ascending onto
// the value that is there. So calls that are cut at multiples of kAddedRows rows leave the same bits as one.
#pragma once
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

inline constexpr int kAddedRows = 32, kPiecesTogether = 1024;

// By a whole thread block of kPiecesTogether threads: a piece a thread, whose terms are fetched together.
template <class Term>
__device__ void add_terms_in_order(double* total, int64_t rows, const Term& term) {
  __shared__ double found[kPiecesTogether];
  double sum = *total;
  const int64_t pieces = divide_up(rows, kAddedRows);
  for (int64_t first = 0; first < pieces; first += kPiecesTogether) {
    const int64_t begin = (first + threadIdx.x) * kAddedRows;
    double piece = 0;
    if (begin + kAddedRows <= rows) {
#pragma unroll
      for (int i = 0; i < kAddedRows; ++i) piece += term(begin + i);
    } else {
      for (int64_t row = begin; row < rows; ++row) piece += term(row);
    }
    found[threadIdx.x] = piece;
    __syncthreads();
    const int64_t left = pieces - first;
    const int count = left < kPiecesTogether ? int(left) : kPiecesTogether;
    if (threadIdx.x == 0)
#pragma unroll 16  // for the reads; additions wait for each other
      for (int i = 0; i < count; ++i) sum += found[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) *total = sum;
}

template <class Term>
__global__ void __launch_bounds__(kPiecesTogether) add_terms(double* total, int64_t rows, Term term) {
  add_terms_in_order(total, rows, term);
}

// total += the sum over rows of term(row).
template <class Term>
void add_over_rows(Stream& stream, const char* name, double* total, int64_t rows, Term term) {
  if (rows > 0) launch_blocks(stream, name, 1, dim3(kPiecesTogether), add_terms<Term>, total, rows, term);
}

}  // namespace fulgur::cuda
