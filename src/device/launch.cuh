// The one way to start a kernel: the stream cannot be forgotten, and a failed launch is reported where it happened.
#pragma once
#include <cuda_runtime.h>

#include "device/stream.h"

namespace fulgur::cuda {

inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) fail(ErrorKind::device, std::string(call) + ": " + cudaGetErrorString(status));
}

struct Grid {
  dim3 blocks, threads;
  size_t shared_bytes = 0;
  unsigned cluster = 1;  // thread blocks side by side that run together
};

// The thread block's dynamic shared memory, of Grid::shared_bytes.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char bytes[];
  return bytes;
}

template <class... Parameters, class... Arguments>
void launch(Stream& stream, const char* name, const Grid& grid, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = grid.cluster, cluster.val.clusterDim.y = 1, cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks, config.blockDim = grid.threads, config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream.native());
  config.attrs = &cluster, config.numAttrs = grid.cluster > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

}  // namespace fulgur::cuda
