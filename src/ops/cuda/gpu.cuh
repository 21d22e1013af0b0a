// What launches ask of the current GPU.
#pragma once
#include <string>

#include "device/launch.cuh"

namespace fulgur::cuda {

inline int gpu_attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}
inline bool is_hopper() { return gpu_attribute(cudaDevAttrComputeCapabilityMajor) == 9; }
inline bool has_clusters() { return gpu_attribute(cudaDevAttrComputeCapabilityMajor) >= 9; }
// Bytes of shared memory that a thread block may have: 99 KiB on consumers' cards, 163 and 227 on others.
inline int64_t block_memory() { return gpu_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
inline int64_t processors() { return gpu_attribute(cudaDevAttrMultiProcessorCount); }

// Room for the largest tiles of attention's portable kernels; smaller ones give the same bits.
inline bool has_roomy_blocks() { return block_memory() >= 144 << 10; }
// Lets a kernel's blocks have `bytes` of shared memory.
template <class... Parameters>
void allow_block_memory(const char* name, void (*kernel)(Parameters...), size_t bytes) {
  if (int64_t(bytes) > block_memory())
    fail(ErrorKind::unsupported, std::string(name) + " of this head size and type needs " + std::to_string(bytes) +
                                     " bytes of shared memory; a block of this GPU's has " +
                                     std::to_string(block_memory()) + ": expected heads of at most 64, or bf16");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "cudaFuncSetAttribute");
}

}  // namespace fulgur::cuda
