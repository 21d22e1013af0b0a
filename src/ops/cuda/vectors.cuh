// Elements of f32 and bf16 rows as kernels move them: 16 bytes at a time, or pairs; computed in f32 and rounded once.
#pragma once
#include "ops/cuda/matrix_unit.cuh"

namespace fulgur::cuda {

template <class T>
inline constexpr int kVector = 16 / int(sizeof(T));

__device__ inline float2 load_pair(const float* from) { return *reinterpret_cast<const float2*>(from); }
__device__ inline float2 load_pair(const bf16* from) {
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(from);
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)};
}

__device__ inline void store_pair(float* to, float x, float y) { *reinterpret_cast<float2*>(to) = {x, y}; }
__device__ inline void store_pair(bf16* to, float x, float y) { *reinterpret_cast<uint32_t*>(to) = bf16_pair(x, y); }

// Each element of 16 bytes becomes change(element).
template <class T, class Change>
__device__ __forceinline__ void change_vector(T* at, Change change) {
  uint4& memory = *reinterpret_cast<uint4*>(at);
  const uint4 loaded = memory;
  uint32_t words[] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
  for (uint32_t& word : words) {
    if constexpr (sizeof(T) == 4) {
      word = __float_as_uint(change(__uint_as_float(word)));
    } else {
      word = bf16_pair(change(__uint_as_float(word << 16)), change(__uint_as_float(word & 0xffff0000)));
    }
  }
  memory = {words[0], words[1], words[2], words[3]};
}

// 1 / (1 + exp(-x)) and its neighbours; a bf16 run rounds what follows to 8 bits, so there the fast forms do.
template <class T>
__device__ inline float divided_by_gate(float x, float y) {  // x / (1 + exp(-y))
  if constexpr (sizeof(T) == 4) {
    return __fdiv_rn(x, __fadd_rn(1, expf(-y)));
  } else {
    return __fdividef(x, __fadd_rn(1, __expf(-y)));
  }
}
template <class T>
__device__ inline float silu(float x) {
  return divided_by_gate<T>(x, x);
}
template <class T>
__device__ inline float silu_slope(float x) {
  const float sigmoid = divided_by_gate<T>(1, x);
  return __fmul_rn(sigmoid, __fmaf_rn(x, __fadd_rn(1, -sigmoid), 1));
}

}  // namespace fulgur::cuda
