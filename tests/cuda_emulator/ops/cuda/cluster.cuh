// Stands in for src/ops/cuda/cluster.cuh (emulator.h).
#pragma once
#include "tests/cuda_emulator/cuda_runtime.h"

namespace fulgur::cuda {

inline void cluster_arrive() { emulator::cluster_arrive(); }
inline void cluster_wait() { emulator::cluster_wait(); }
template <class Number>
void store_shared(Number* at, uint32_t rank, Number value) {
  const auto offset = reinterpret_cast<std::byte*>(at) - emulator::shared_memory();
  std::memcpy(emulator::shared_memory_of(rank) + offset, &value, sizeof value);
}
inline float4 load_shared(const float* at, uint32_t rank) {
  const auto offset = reinterpret_cast<const std::byte*>(at) - emulator::shared_memory();
  float4 x;
  std::memcpy(&x, emulator::shared_memory_of(rank) + offset, sizeof x);
  return x;
}

}  // namespace fulgur::cuda
