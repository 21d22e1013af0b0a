// What gated_rms_norm makes of a row, in every kernel that does: for files without contraction (CMakeLists.txt).
#pragma once
#include "ops/cuda/gates.cuh"
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

// Of a row's sum of squares over all heads.
__device__ inline float inverse_rms_of(float squares, float whole_width, float eps) {
  return 1 / sqrtf(squares / whole_width + eps);
}

// In x's place.
__device__ inline void gate_and_norm(float (&x)[kChunk], float inverse_rms, const float (&weight)[kChunk],
                                     const float (&gate)[kChunk]) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) x[i] = inverse_rms * x[i] * weight[i] * sigmoid(gate[i]);
}

}  // namespace fulgur::cuda
