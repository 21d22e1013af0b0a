// Stands in for src/device/launch.cuh: a launch runs its kernel to the end (emulator.h).
#pragma once
#include <string>

#include "device/stream.h"
#include "tests/cuda_emulator/cuda_runtime.h"

namespace fulgur::cuda {

inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) fail(ErrorKind::device, std::string(call) + ": " + cudaGetErrorString(status));
}

struct Grid {
  dim3 blocks, threads;
  size_t shared_bytes = 0;
  unsigned cluster = 1;
  bool follows = false;
};

inline void let_next_begin() {}
inline void await_previous() { emulator::await_previous(); }
inline void follow() { await_previous(); }

inline unsigned char* dynamic_shared() { return reinterpret_cast<unsigned char*>(emulator::shared_memory()); }

template <class... Parameters, class... Arguments>
void launch(Stream&, const char*, const Grid& grid, void (*kernel)(Parameters...), Arguments... arguments) {
  emulator::submit([=] {
    emulator::run({grid.blocks, grid.threads, grid.shared_bytes, grid.cluster, grid.follows},
                  [&] { kernel(arguments...); });
  });
}

}  // namespace fulgur::cuda
