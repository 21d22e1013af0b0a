// Whole numbers are added in any order, for they are exact in f64; entropies in the order of rows.
#include "ops/cuda/ordered_sum.cuh"
#include "ops/router_statistics.h"

namespace fulgur::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) add_load(double* load, Rows<const int32_t> choices) {
  const int64_t e = block_index() * kThreads + threadIdx.x;
  if (e >= choices.width) return;
  int64_t sum = 0;
  for (int64_t window = 0; window < choices.count; ++window) sum += choices[window][e];
  load[e] += double(sum);
}

__global__ void __launch_bounds__(kThreads)
    add_dropped(double* dropped, Rows<const int32_t> place, int64_t window, int64_t parts) {
  const int64_t row = block_index() * kThreads + threadIdx.x;
  if (row >= place.count) return;
  int count = 0;
  for (int64_t slot = 0; slot < place.width; ++slot) count += place[row][slot] == -1 ? 1 : 0;
  if (count > 0) atomicAdd(dropped + row % window * parts / window, double(count));
}

struct Entropy {
  const float* entropy;
  __device__ double operator()(int64_t row) const { return double(entropy[row]); }
};

}  // namespace

void router_statistics(Stream& stream, const RouterStatistics& op) {
  with_cuda_type(op.entropy.dtype, [&]<class T>() {
    const Rows<const int32_t> choices = rows_of<const int32_t>(op.choices), place = rows_of<const int32_t>(op.place);
    launch_blocks(stream, "router_statistics", divide_up(choices.width, kThreads), dim3(kThreads), add_load,
                  op.load.elements<double>(), choices);
    launch_blocks(stream, "router_statistics", divide_up(place.count, kThreads), dim3(kThreads), add_dropped,
                  op.dropped.elements<double>(), place, place.count / choices.count, op.dropped.dim(0));
    add_over_rows(stream, "router_statistics", op.entropy_sum.elements<double>(), place.count,
                  Entropy{op.entropy.elements<float>()});
  });
}

}  // namespace fulgur::cuda
