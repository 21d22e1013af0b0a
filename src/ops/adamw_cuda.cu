// Elementwise in the CPU twin's order, and so to its bits. A thread takes four elements; the ranges without decay are
// searched on the device.
#include "ops/adamw.h"
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {
namespace {

struct Step {
  const double* norm;
  double max_norm;
  float keep1, take1, keep2, take2, unbias1, unbias2, rate, eps, decay;
};

// base^n by squaring, as the CPU twin has it.
double power(double base, int64_t n) {
  double result = 1;
  for (; n > 0; n /= 2, base *= base)
    if (n % 2 == 1) result *= base;
  return result;
}

Step step_of(const AdamW& op) {
  return {.norm = op.gradient_norm.elements<double>(),
          .max_norm = op.max_norm,
          .keep1 = float(op.beta1),
          .take1 = float(1 - op.beta1),
          .keep2 = float(op.beta2),
          .take2 = float(1 - op.beta2),
          .unbias1 = float(1 / (1 - power(op.beta1, op.step))),
          .unbias2 = float(1 / (1 - power(op.beta2, op.step))),
          .rate = float(op.learning_rate),
          .eps = float(op.eps),
          .decay = float(op.weight_decay)};
}

struct Buffers {
  float *master, *first, *second;
  const float* gradient;
  const int64_t* bare;  // [ranges, 2], ascending
  int64_t ranges, count;
};

// The first range that ends beyond element i.
__device__ int64_t range_after(const Buffers& b, int64_t i) {
  int64_t low = 0, high = b.ranges;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (b.bare[2 * middle + 1] > i) high = middle;
    else low = middle + 1;
  }
  return low;
}

constexpr int kElements = 4;

// weights: null where the master itself is read.
template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads) update(T* weights, Buffers b, Step step) {
  const int64_t at = (block_index() * kThreads + threadIdx.x) * kElements, left = b.count - at;
  if (left <= 0) return;
  float w[kElements], m[kElements], v[kElements], gradient[kElements];
  load<kAligned>(w, b.master + at, left), load<kAligned>(m, b.first + at, left);
  load<kAligned>(v, b.second + at, left), load<kAligned>(gradient, b.gradient + at, left);
  const double norm = *step.norm;
  const float clip = float(step.max_norm > 0 && norm > step.max_norm ? step.max_norm / norm : 1);
  int64_t range = range_after(b, at);
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    while (range < b.ranges && b.bare[2 * range + 1] <= at + i) ++range;
    const float decay = range < b.ranges && b.bare[2 * range] <= at + i ? 0 : step.decay;
    const float g = clip * gradient[i];
    m[i] = step.keep1 * m[i] + step.take1 * g;
    v[i] = step.keep2 * v[i] + (step.take2 * g) * g;
    const float direction = (m[i] * step.unbias1) / (sqrtf(v[i] * step.unbias2) + step.eps);
    w[i] = w[i] - step.rate * (direction + decay * w[i]);
  }
  store<kAligned>(b.master + at, w, left);
  store<kAligned>(b.first + at, m, left), store<kAligned>(b.second + at, v, left);
  if (!weights) return;
  if constexpr (sizeof(T) == sizeof(float)) {
    store<kAligned>(weights + at, w, left);
  } else if (kAligned) {
    *reinterpret_cast<uint2*>(weights + at) = make_uint2(bf16_pair(w[0], w[1]), bf16_pair(w[2], w[3]));
  } else {
    for (int i = 0; i < kElements && i < left; ++i) weights[at + i].bits = uint16_t(bf16_pair(w[i], 0));
  }
}

}  // namespace

void adamw(Stream& stream, const AdamW& op) {
  const Buffers buffers{.master = op.master.elements<float>(),
                        .first = op.first.elements<float>(),
                        .second = op.second.elements<float>(),
                        .gradient = op.gradient.elements<float>(),
                        .bare = op.not_decayed.elements<int64_t>(),
                        .ranges = op.not_decayed.dim(0),
                        .count = op.master.dim(0)};
  with_cuda_type(op.weights ? op.weights.dtype : op.master.dtype, [&]<class T>() {
    T* const weights = op.weights ? op.weights.elements<T>() : nullptr;
    const uintptr_t bits = uintptr_t(buffers.master) | uintptr_t(buffers.first) | uintptr_t(buffers.second) |
                           uintptr_t(buffers.gradient) | uintptr_t(weights);
    with_flag(bits % 16 == 0 && buffers.count % kElements == 0, [&]<bool kAligned>() {
      launch_blocks(stream, "adamw", divide_up(buffers.count, int64_t(kThreads) * kElements), dim3(kThreads),
                    update<kAligned, T>, weights, buffers, step_of(op));
    });
  });
}

}  // namespace fulgur::cuda
