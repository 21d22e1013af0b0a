// Thread blocks that run together and reach each other's shared memory: from compute capability 9.0 on. Kernels that
// others run too must not come here on them (has_clusters, ops/cuda/gpu.cuh).
#pragma once
#include <cstdint>

namespace fulgur::cuda {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

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

__device__ inline void store_shared(int32_t* at, uint32_t rank, int32_t value) {
  store_shared(reinterpret_cast<float*>(at), rank, __int_as_float(value));
}

__device__ inline void store_shared(uint64_t* at, uint32_t rank, uint64_t value) {
  asm volatile(
      "{ .reg .b32 there;\n"
      "  mapa.shared::cluster.u32 there, %0, %1;\n"
      "  st.shared::cluster.b64 [there], %2; }" ::"r"(uint32_t(__cvta_generic_to_shared(at))),
      "r"(rank), "l"(value)
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

#else
__device__ inline void cluster_arrive() { __trap(); }
__device__ inline void cluster_wait() { __trap(); }
__device__ inline void store_shared(float*, uint32_t, float) { __trap(); }
__device__ inline void store_shared(int32_t*, uint32_t, int32_t) { __trap(); }
__device__ inline void store_shared(uint64_t*, uint32_t, uint64_t) { __trap(); }
__device__ inline float4 load_shared(const float*, uint32_t) {
  __trap();
  return {};
}
#endif

}  // namespace fulgur::cuda
