// Thread blocks that run together and reach each other's shared memory.
#pragma once
#include <cstdint>

namespace fulgur::cuda {

// A barrier of all threads of a cluster in two halves: what was written before `arrive` is seen after `wait`.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// *at = value in the shared memory of thread block `rank` of the cluster.
__device__ inline void store_shared(float* at, uint32_t rank, float value) {
  asm volatile(
      "{ .reg .b32 there;\n"
      "  mapa.shared::cluster.u32 there, %0, %1;\n"
      "  st.shared::cluster.f32 [there], %2; }" ::"r"(uint32_t(__cvta_generic_to_shared(at))),
      "r"(rank), "f"(value)
      : "memory");
}

// Four numbers that lie at `at` in the shared memory of thread block `rank` of the cluster; a multiple of 16 bytes.
__device__ inline float4 load_shared(const float* at, uint32_t rank) {
  float4 x;
  asm volatile(
      "{ .reg .b32 there;\n"
      "  mapa.shared::cluster.u32 there, %4, %5;\n"
      "  ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there]; }"
      : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
      : "r"(uint32_t(__cvta_generic_to_shared(at))), "r"(rank)
      : "memory");
  return x;
}

}  // namespace fulgur::cuda
