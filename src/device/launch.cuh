// The one way to start a kernel: the stream cannot be forgotten, and a failed launch is reported where it happened.
#pragma once
#include <cuda_runtime.h>

#include "device/cuda_calls.h"
#include "device/stream.h"

namespace fulgur::cuda {

inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // or the next launch would be told of it
  fail(ErrorKind::device, std::string(call) + ": " + cudaGetErrorString(status));
}

struct Grid {
  dim3 blocks, threads;
  size_t shared_bytes = 0;
  unsigned cluster = 1;  // thread blocks side by side that run together
  // From compute capability 9.0 on, blocks begin while the kernel before still runs, once all of its blocks have begun:
  // each thread of a kernel that is launched so waits for that kernel before it reads or writes what kernels write, and
  // also where it has nothing to do, since kernels after it count on that.
  bool follows = false;
};

// Lets the kernel after this one begin, where that one follows, as soon as all blocks have said so.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Until all kernels before this one have ended, and what they wrote is seen.
__device__ inline void await_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The first statement of most kernels that follow.
__device__ inline void follow() { let_next_begin(), await_previous(); }

// The thread block's dynamic shared memory, of Grid::shared_bytes.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char bytes[];
  return bytes;
}

template <class... Parameters, class... Arguments>
void launch(Stream& stream, const char* name, const Grid& grid, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config{};
  config.attrs = attributes;
  if (grid.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = grid.cluster, cluster.val.clusterDim.y = 1, cluster.val.clusterDim.z = 1;
  }
  if (grid.follows && kernels_can_follow(stream.device())) {
    cudaLaunchAttribute& follows = attributes[config.numAttrs++];
    follows.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    follows.val.programmaticStreamSerializationAllowed = 1;
  }
  config.gridDim = grid.blocks, config.blockDim = grid.threads, config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream.native());
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

}  // namespace fulgur::cuda
