// What launches ask of the current GPU.
#pragma once
#include "device/launch.cuh"

namespace fulgur::cuda {

inline int gpu_attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}
inline bool is_hopper() { return gpu_attribute(cudaDevAttrComputeCapabilityMajor) == 9; }
inline int64_t processors() { return gpu_attribute(cudaDevAttrMultiProcessorCount); }

}  // namespace fulgur::cuda
