// Elementwise, so the matrices are walked as one long row.
#include "ops/cuda/elements.cuh"
#include "ops/cuda/gates.cuh"
#include "ops/swiglu.h"

namespace fulgur::cuda {
namespace {

struct Forward {
  __device__ void operator()(const float (&x)[2], float (&y)[1]) const { y[0] = gated(x[0], x[1]); }
};

struct Backward {  // dy, gate, up
  __device__ void operator()(const float (&x)[3], float (&y)[2]) const {
    const GateGradients d = gate_gradients(x[0], x[1], x[2]);
    y[0] = d.gate, y[1] = d.up;
  }
};

}  // namespace

void swiglu(Stream& stream, const Swiglu& op) {
  with_cuda_type(op.gate.dtype, [&]<class T>() {
    for_elements<T, 2, 1>(stream, "swiglu", {{op.y.elements<T>()}, {op.gate.elements<T>(), op.up.elements<T>()}},
                          Forward{}, op.gate.count());
  });
}

void swiglu_backward(Stream& stream, const SwigluBackward& op) {
  with_cuda_type(op.gate.dtype, [&]<class T>() {
    for_elements<T, 3, 2>(stream, "swiglu_backward",
                          {{op.dgate.elements<T>(), op.dup.elements<T>()},
                           {op.dy.elements<T>(), op.gate.elements<T>(), op.up.elements<T>()}},
                          Backward{}, op.gate.count());
  });
}

}  // namespace fulgur::cuda
