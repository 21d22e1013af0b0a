// A thread's sums of a product for Hopper (ops/cuda/hopper.cuh), from and to c in memory.
#pragma once
#include "ops/cuda/hopper.cuh"
#include "ops/cuda/hopper_parts.cuh"

namespace fulgur::cuda::hopper_products {

// A thread's sums in c: of its row and the one eight below, pairs of columns of each eight.
template <class C>
struct Corner {
  C* at;  // the thread's first
  int64_t row;
  int rows_left, columns_left;  // from there on

  template <class P>
  __device__ Corner(const P& p, const Part& part, int warpgroup) : row(p.c_row) {
    const int thread = int(threadIdx.x) % kWarpgroup;
    const int down = warpgroup * 64 + thread / 32 * 16 + thread % 32 / 4, right = part.n + thread % 4 * 2;
    at = p.c + part.group * p.groups.c_apart + (part.m + down) * row + right;
    rows_left = part.m_end - part.m - down, columns_left = p.n - right;
  }
};

__device__ inline float2 pair_at(const float* c) { return *reinterpret_cast<const float2*>(c); }
__device__ inline float2 pair_at(const bf16* c) {
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(c);
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)};
}

template <int kSums, class C>
__device__ inline void load_sums(float (&sums)[kSums], const Corner<C>& corner, bool adds) {
#pragma unroll
  for (int i = 0; i < kSums; i += 2) {
    const int down = i / 2 % 2 * 8, right = i / 4 * 8;
    float2 pair = {0, 0};
    if (adds && down < corner.rows_left && right < corner.columns_left)
      pair = pair_at(corner.at + down * corner.row + right);
    sums[i] = pair.x, sums[i + 1] = pair.y;
  }
}

template <int kSums>
__device__ inline void store_sums(const float (&sums)[kSums], const Corner<float>& corner) {
#pragma unroll
  for (int i = 0; i < kSums; i += 2) {
    const int down = i / 2 % 2 * 8, right = i / 4 * 8;
    if (down < corner.rows_left && right < corner.columns_left)
      *reinterpret_cast<float2*>(corner.at + down * corner.row + right) = {sums[i], sums[i + 1]};
  }
}
// Neighbouring lanes exchange a pair, so that each stores two at once: an even lane of eight columns, an odd one of the
// next eight.
template <int kSums>
__device__ inline void store_sums(const float (&sums)[kSums], const Corner<bf16>& corner) {
  const bool odd = threadIdx.x % 2 != 0;
#pragma unroll
  for (int i = 0; i < kSums; i += 8) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t left = bf16_pair(sums[i + 2 * half], sums[i + 2 * half + 1]);
      const uint32_t right = bf16_pair(sums[i + 4 + 2 * half], sums[i + 5 + 2 * half]);
      const uint32_t other = __shfl_xor_sync(kAllLanes, odd ? left : right, 1);
      const int column = i / 4 * 8 + (odd ? 8 - 2 : 0);
      if (8 * half < corner.rows_left && column < corner.columns_left)
        *reinterpret_cast<uint2*>(corner.at + 8 * half * corner.row + column) =
            odd ? make_uint2(other, right) : make_uint2(left, other);
    }
  }
}

}  // namespace fulgur::cuda::hopper_products
