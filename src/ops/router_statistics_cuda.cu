// Whole numbers are added in any order, for they are exact in f64; entropies in the order of rows, by a block of their
// own, which takes longest.
#include <algorithm>

#include "ops/cuda/ordered_sum.cuh"
#include "ops/router_statistics.h"

namespace fulgur::cuda {
namespace {

struct Entropy {
  const float* entropy;
  __device__ double operator()(int64_t row) const { return double(entropy[row]); }
};

__device__ void add_load(double* load, const Rows<const int32_t>& choices) {
  for (int64_t e = threadIdx.x; e < choices.width; e += blockDim.x) {
    int64_t sum = 0;
#pragma unroll 8  // loads under way together
    for (int64_t window = 0; window < choices.count; ++window) sum += choices[window][e];
    load[e] += double(sum);
  }
}

__device__ void add_dropped(double* dropped, const Rows<const int32_t>& place, int64_t row, int64_t window,
                            int64_t parts) {
  if (row >= place.count) return;
  int count = 0;
  for (int64_t slot = 0; slot < place.width; ++slot) count += place[row][slot] == -1 ? 1 : 0;
  if (count > 0) atomicAdd(dropped + row % window * parts / window, double(count));
}

struct Counted {
  double *load, *dropped, *entropy_sum;
  int64_t parts;
  Rows<const int32_t> choices, place;
  Entropy entropy;
};

__global__ void __launch_bounds__(kPiecesTogether) count_rows(Counted c) {
  const int64_t block = block_index();
  if (block == 0) return add_terms_in_order(c.entropy_sum, c.place.count, c.entropy);
  if (block == 1) add_load(c.load, c.choices);
  add_dropped(c.dropped, c.place, (block - 1) * kPiecesTogether + threadIdx.x, c.place.count / c.choices.count,
              c.parts);
}

}  // namespace

void router_statistics(Stream& stream, const RouterStatistics& op) {
  with_cuda_type(op.entropy.dtype, [&]<class T>() {
    launch_blocks(stream, "router_statistics", 1 + std::max<int64_t>(divide_up(op.place.dim(0), kPiecesTogether), 1),
                  dim3(kPiecesTogether), count_rows,
                  Counted{.load = op.load.elements<double>(),
                          .dropped = op.dropped.elements<double>(),
                          .entropy_sum = op.entropy_sum.elements<double>(),
                          .parts = op.dropped.dim(0),
                          .choices = rows_of<const int32_t>(op.choices),
                          .place = rows_of<const int32_t>(op.place),
                          .entropy = {op.entropy.elements<float>()}});
  });
}

}  // namespace fulgur::cuda
