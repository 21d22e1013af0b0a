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
};

template <class... Parameters, class... Arguments>
void launch(Stream& stream, const char* name, Grid grid, void (*kernel)(Parameters...), Arguments... arguments) {
  kernel<<<grid.blocks, grid.threads, grid.shared_bytes, static_cast<cudaStream_t>(stream.native())>>>(arguments...);
  check(cudaGetLastError(), name);
}

}  // namespace fulgur::cuda
