// Both products are rounded before they are added, as on the CPU.
#include "ops/blend.h"
#include "ops/cuda/elements.cuh"

namespace fulgur::cuda {
namespace {

struct Sum {
  float alpha, beta;
  __device__ void operator()(const float (&x)[2], float (&y)[1]) const { y[0] = alpha * x[0] + beta * x[1]; }
};

struct Scaled {
  float alpha;
  __device__ void operator()(const float (&x)[1], float (&y)[1]) const { y[0] = alpha * x[0]; }
};

}  // namespace

void blend(Stream& stream, const Blend& op) {
  const float alpha = float(op.alpha), beta = float(op.beta);
  with_cuda_type(op.a.dtype, [&]<class T>() {
    T *y = op.y.elements<T>(), *a = op.a.elements<T>();
    if (op.b) for_elements<T, 2, 1>(stream, "blend", {{y}, {a, op.b.elements<T>()}}, Sum{alpha, beta}, op.a.count());
    else for_elements<T, 1, 1>(stream, "blend", {{y}, {a}}, Scaled{alpha}, op.a.count());
  });
}

}  // namespace fulgur::cuda
