// The CPU twin's order, and so its bits: sixteen threads are a row's lanes; then one thread adds the rows, ascending.
#include "ops/cuda/rows.cuh"
#include "ops/cuda/scratch.cuh"
#include "ops/magnitude.h"

namespace fulgur::cuda {
namespace {

constexpr int kLanes = 16, kTogether = 1024;

struct RowMagnitude {
  double squares, largest;  // largest: of the row's numbers that are not NaN
};

template <class T>
__global__ void __launch_bounds__(kThreads) measure_rows(RowMagnitude* rows, Rows<const T> x) {
  const int64_t row = block_index() * (kThreads / kLanes) + threadIdx.x / kLanes;
  const int lane = int(threadIdx.x % kLanes);
  double squares = 0, largest = 0;
  for (int64_t i = lane; row < x.count && i < x.width; i += kLanes) {
    const double value = double(float(x[row][i])), size = fabs(value);
    squares += value * value;
    largest = size > largest ? size : largest;
  }
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) {
    squares += __shfl_xor_sync(kAllLanes, squares, half);
    const double other = __shfl_xor_sync(kAllLanes, largest, half);
    largest = other > largest ? other : largest;
  }
  if (lane == 0 && row < x.count) rows[row] = {squares, largest};
}

// One block.
__global__ void __launch_bounds__(kTogether) add_rows(double* sums, const RowMagnitude* rows, int64_t count) {
  __shared__ double squares[kTogether], largest[kTogether];
  double sum = sums[0], most = 0;
  for (int64_t first = 0; first < count; first += kTogether) {
    if (const int64_t row = first + threadIdx.x; row < count) {
      squares[threadIdx.x] = rows[row].squares;
      most = rows[row].largest > most ? rows[row].largest : most;
    }
    __syncthreads();
    const int64_t here = min(count - first, int64_t(kTogether));
    if (threadIdx.x == 0)
      for (int64_t i = 0; i < here; ++i) sum += squares[i];
    __syncthreads();
  }
  largest[threadIdx.x] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
  most = sums[1];
  for (const double one : largest) most = one > most ? one : most;
  sums[0] = sum, sums[1] = sum == sum ? most : sum;  // a sum that is no number makes both so
}

}  // namespace

void magnitude(Stream& stream, const Magnitude& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() {
    const Rows<const T> x = rows_of<const T>(op.x);
    const Scratch scratch(stream, size_t(x.count + 1) * sizeof(RowMagnitude));
    launch_blocks(stream, "magnitude", divide_up(x.count, kThreads / kLanes), dim3(kThreads), measure_rows<T>,
                  scratch.as<RowMagnitude>(), x);
    launch_blocks(stream, "magnitude", 1, dim3(kTogether), add_rows, op.sums.elements<double>(),
                  static_cast<const RowMagnitude*>(scratch.as<RowMagnitude>()), x.count);
  });
}

}  // namespace fulgur::cuda
