// What a norm makes of a row's sum of squares: for files without contraction (CMakeLists.txt).
#pragma once
#include <cuda_runtime.h>

namespace fulgur::cuda {

__device__ inline float inverse_rms_of(float squares, float width, float eps) {
  return 1 / sqrtf(squares / width + eps);
}

}  // namespace fulgur::cuda
